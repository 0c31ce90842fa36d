package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	linkLife     = 2 * time.Minute  // of an address in the bucket; whoever has it needs no rights meanwhile
	uploadLife   = 24 * time.Hour   // after which an upload that has not ended never will; more than maxTransfer
	discardLimit = 30 * time.Second // for removing what an upload has left
	cleanupChunk = 100

	maxUploads       = 32 // at once in one process; one to a bucket takes 5 MiB of memory
	maxUploadsOfUser = 6  // of them

	thumbnailSide = 320 // pixels at most
)

// A blob is what a file holds, under a random key in the storage. Its row is there before the first byte is and
// until after the last one is gone, so nothing in the storage is ever unknown: a blob is pending while it comes
// in, then an attachment's, and when it is neither, for whatever reason, it is removed.

// attachment is a file of a task. It does not change, but for what is found out about it.
type attachment struct {
	ID          uuid      `json:"id"`
	TaskID      uuid      `json:"taskId"`
	ProjectID   uuid      `json:"projectId"`
	Name        string    `json:"name"`
	Size        int64     `json:"size"`        // bytes
	ContentType string    `json:"contentType"` // by what it is, not by what it is called
	Checksum    string    `json:"checksum"`    // SHA-256, in hexadecimal
	Width       *int      `json:"width"`       // pixels, of an image that could be read; null before that
	Height      *int      `json:"height"`
	Thumbnail   bool      `json:"thumbnail"` // there is one
	CreatedBy   uuid      `json:"createdBy"`
	CreatedAt   timestamp `json:"createdAt"`
	Version     int64     `json:"version"`
}

const attachmentColumns = `a.id, a.task_id, a.project_id, a.name, a.size, a.content_type, encode(a.checksum, 'hex') AS checksum, a.width, a.height,
	EXISTS (SELECT FROM blobs b WHERE b.attachment_id = a.id AND b.thumbnail) AS thumbnail, a.created_by, a.created_at, a.version`

const (
	attachmentsSQL = `
	SELECT ` + attachmentColumns + ` FROM attachments a WHERE a.task_id = $1 AND a.id < $2 ORDER BY a.id DESC LIMIT $3`
	countAttachmentsSQL = `SELECT count(*) FROM attachments WHERE task_id = $1`
)

// handleAttachments lists the files of a task, newest first.
func (s *server) handleAttachments(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r)
	p := s.page(r, q)
	if err := q.done(); err != nil {
		return err
	}
	task, err := s.taskID(r, "id")
	if err != nil {
		return err
	}
	me := callerOf(r.Context())
	if task, err = queryValue[uuid](r.Context(), s.db, liveTaskSQL, me.ID, me.seesAll(), task); err != nil {
		return err
	}
	rows, err := queryAll[attachment](r.Context(), s.db, attachmentsSQL, task, p.beforeID(), p.limit+1)
	if err != nil {
		return err
	}
	total, err := s.countIf(r.Context(), p.total, countAttachmentsSQL, task)
	if err != nil {
		return err
	}
	return writeList(s, w, r, p, rows, total, func(a attachment) cursor { return cursor{ID: a.ID.String()} })
}

// storedAttachment is an attachment and where its bytes are.
type storedAttachment struct {
	attachment
	Key           string
	ThumbnailKey  *string // nil: none
	ThumbnailSize *int64
}

// storedAttachmentSQL finds a file of a live task that the caller reads.
const storedAttachmentSQL = `
	SELECT ` + attachmentColumns + `, c.key, m.key AS thumbnail_key, m.size AS thumbnail_size
	FROM attachments a JOIN blobs c ON c.attachment_id = a.id AND NOT c.thumbnail LEFT JOIN blobs m ON m.attachment_id = a.id AND m.thumbnail
	JOIN tasks t ON t.id = a.task_id AND t.deleted_at IS NULL JOIN projects p ON p.id = a.project_id
	WHERE a.id = $3 AND ` + visibleSQL

// storedAttachment is the one in the path, which takes no parameters besides.
func (s *server) storedAttachment(r *http.Request) (storedAttachment, error) {
	if err := parseQuery(r).done(); err != nil {
		return storedAttachment{}, err
	}
	id, err := pathUUID(r, "id")
	if err != nil {
		return storedAttachment{}, err
	}
	me := callerOf(r.Context())
	return queryOne[storedAttachment](r.Context(), s.db, storedAttachmentSQL, me.ID, me.seesAll(), id)
}

// handleAttachment answers what is known of a file.
func (s *server) handleAttachment(w http.ResponseWriter, r *http.Request) error {
	a, err := s.storedAttachment(r)
	if err != nil {
		return err
	}
	return writeVersioned(w, r, http.StatusOK, a.Version, a.attachment)
}

// handleAttachmentContent answers the file itself, or a part of it, or where to get it.
func (s *server) handleAttachmentContent(w http.ResponseWriter, r *http.Request) error {
	a, err := s.storedAttachment(r)
	if err != nil {
		return err
	}
	link, err := s.blobs.link(r.Context(), a.Key, offer(a.Name), a.ContentType, linkLife)
	if err != nil {
		return err
	}
	if link != "" {
		w.Header().Set("Location", link)
		w.WriteHeader(http.StatusTemporaryRedirect)
		return nil
	}
	return s.writeBlob(w, r, a.Key, a.Size, `"`+a.Checksum+`"`, a.ContentType, a.Name)
}

// handleThumbnail answers a small image of a file, always from here, as pages show many.
func (s *server) handleThumbnail(w http.ResponseWriter, r *http.Request) error {
	a, err := s.storedAttachment(r)
	if err != nil {
		return err
	}
	if a.ThumbnailKey == nil {
		return newProblem("not_found", "There is no small image of this file, or not yet: thumbnail tells.")
	}
	return s.writeBlob(w, r, *a.ThumbnailKey, *a.ThumbnailSize, `"`+a.Checksum+`-`+strconv.Itoa(thumbnailSide)+`"`, "image/jpeg", a.Name+".jpg")
}

// writeBlob answers a blob to be kept, never shown: whatever it is, it must not act as a page of ours.
func (s *server) writeBlob(w http.ResponseWriter, r *http.Request, key string, size int64, tag, media, name string) error {
	offset, n, partly, err := byteRange(r, tag, size)
	if err != nil {
		return err
	}
	if notModified(w, r, tag) {
		return nil
	}
	h, head := w.Header(), r.Method == http.MethodHead
	var content io.ReadCloser = http.NoBody
	if !head {
		if content, err = s.blobs.open(r.Context(), key, offset, n); err != nil {
			h.Del("ETag")
			return err
		}
	}
	defer content.Close()
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Type", media)
	h.Set("Content-Disposition", offer(name))
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'; frame-ancestors 'none'")
	h.Set("Content-Length", strconv.FormatInt(n, 10))
	status := http.StatusOK
	if partly {
		status = http.StatusPartialContent
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset, offset+n-1, size))
	}
	out := newOutflow(w)
	w.WriteHeader(status)
	if head {
		return nil
	}
	sent, err := io.Copy(out, content)
	switch {
	case out.err != nil: // the client has gone, or takes nothing any more; the connection ends as it got too little
		return nil
	case err == nil && sent < n:
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return &storageError{cause: fmt.Errorf("read %s: %w", key, err)}
	}
	return nil
}

// used is how many bytes the attachments of a project have.
type used struct{ Used int64 }

const (
	// reserveBlobSQL makes a blob known before there is any of it.
	reserveBlobSQL = `INSERT INTO blobs (key, thumbnail) VALUES ($1, $2)`
	usedSQL        = `SELECT coalesce(sum(size), 0)::bigint AS used FROM attachments WHERE project_id = (SELECT project_id FROM tasks WHERE id = $1)`
	checkQuotaSQL  = `SELECT refuse('quota_exceeded') WHERE $2 < $3 + (` + usedSQL + `)`
	// createAttachmentSQL gives a blob that has come in to a new attachment.
	createAttachmentSQL = `
	WITH c AS (UPDATE blobs SET pending = false, attachment_id = $1, size = $6 WHERE key = $4 AND pending RETURNING key),
	a AS (
		INSERT INTO attachments (id, task_id, project_id, name, size, content_type, checksum, created_by, created_at)
		SELECT $1, t.id, t.project_id, $5, $6, $7, decode($8, 'hex'), $3, $9 FROM tasks t, c WHERE t.id = $2 RETURNING *),
	e AS (
		SELECT log_change(project_id, $3, 'attachment.created', task_id,
			jsonb_build_object('attachmentId', jsonb_build_array(NULL, id), 'name', jsonb_build_array(NULL, name))) FROM a)
	SELECT ` + attachmentColumns + ` FROM a, e`
)

// handleCreateAttachment takes a file in. Who may not send one is refused before a byte of it is read, and
// once more under the lock of the project when it is there: what was true before may take long to be over.
// As a client may take hours, how many come in at once is limited, for each user and for the process.
func (s *server) handleCreateAttachment(w http.ResponseWriter, r *http.Request) error {
	task, err := s.taskID(r, "id")
	if err != nil {
		return err
	}
	again, err := idempotencyKey(r)
	if err != nil {
		return err
	}
	f, err := newForm(w, r)
	if err != nil {
		return err
	}
	defer f.answerSoon()
	me, key := callerOf(r.Context()).ID, rand.Text()
	ended, his := s.uploads.take(me.String(), maxUploads, maxUploadsOfUser)
	if his {
		return newProblem("too_many_uploads", "").with("Retry-After", "10")
	}
	if ended == nil {
		return newProblem("unavailable", "This process takes in as many files as it can at once.")
	}
	defer ended()
	b := &pgx.Batch{}
	b.Queue(enterTaskSQL, task, me, roleMember, nil)
	b.Queue(reserveBlobSQL, key, false)
	b.Queue(usedSQL, task)
	before, err := sendOne[used](r.Context(), s.db, b)
	if err != nil {
		return err
	}
	answer, kept := heldAnswer{Fields: http.Header{}}, false
	err = s.takeIn(r, f, key, before.Used, func(name string, in *intake) (err error) {
		id := newUUID()
		create := func(w http.ResponseWriter, r *http.Request) error {
			b := &pgx.Batch{}
			b.Queue(enterTaskSQL, task, me, roleMember, nil)
			if s.config.storageQuota > 0 {
				b.Queue(checkQuotaSQL, task, s.config.storageQuota, in.bytes)
			}
			b.Queue(createAttachmentSQL, id, task, me, key, name, in.bytes, in.media(), in.checksum(), id.time())
			a, err := sendAnd[attachment](r.Context(), s, b, fact{Kind: "attachment.created", Actor: me, Task: &task, Subject: &id})
			if err != nil {
				return err
			}
			kept = true
			return writeCreated(w, r, "/api/v1/attachments/"+id.String(), a.Version, a)
		}
		if again == "" {
			return create(&answer, r)
		}
		// The boundary of a form is another each time; what is in it makes two requests the same.
		answer, err = s.answerOnce(r, again, sum256(nil, r.URL.EscapedPath(), name, in.checksum()), create)
		return err
	})
	if err != nil || !kept {
		s.discard(r.Context(), key)
	}
	if err != nil {
		return err
	}
	f.answerSoon()
	answer.send(w)
	return nil
}

// takeIn puts the file of a form into the storage and then has it kept. The limits are known before it begins, and
// hold while it comes.
func (s *server) takeIn(r *http.Request, f *form, key string, taken int64, keep func(name string, in *intake) error) error {
	name, file, err := f.file()
	if err != nil {
		return err
	}
	most, over := s.config.uploadMax, newProblem("file_too_large", fmt.Sprintf("A file may have at most %d bytes here.", s.config.uploadMax))
	if left := s.config.storageQuota - taken; s.config.storageQuota > 0 && left < most {
		most, over = max(0, left), newProblem("quota_exceeded", "")
	}
	in := newIntake(file, f, most, over)
	err = s.blobs.put(r.Context(), key, in)
	if in.err != nil {
		return in.err
	}
	if err != nil {
		return err
	}
	if err := f.end(); err != nil {
		return err
	}
	s.intakes.files.Add(1)
	s.intakes.bytes.Add(in.bytes)
	return keep(name, in)
}

const (
	abandonBlobSQL = `UPDATE blobs SET pending = false WHERE key = $1 AND pending`
	forgetBlobsSQL = `DELETE FROM blobs WHERE key = ANY ($1) AND attachment_id IS NULL AND NOT pending`
)

// discard removes what an upload that failed has left, also when its client has gone. A blob that was kept
// nevertheless, as when the answer of the database was lost, stays; where this fails, the cleanup comes to it.
func (s *server) discard(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardLimit)
	defer cancel()
	n, err := execute(ctx, s.db, abandonBlobSQL, key)
	if err == nil && n == 1 {
		err = s.removeBlobs(ctx, key)
	}
	if err != nil {
		s.log.Warn("what an upload has left is left to the cleanup", "error", err, "requestId", requestOf(ctx), "traceId", traceOf(ctx).traceID())
	}
}

// removeBlobs removes blobs that nothing needs, from the storage and then from the table.
func (s *server) removeBlobs(ctx context.Context, keys ...string) (err error) {
	gone := []string{}
	for _, key := range keys {
		failed := s.blobs.delete(ctx, key)
		if err = errors.Join(err, failed); failed == nil {
			gone = append(gone, key)
		}
	}
	_, failed := execute(ctx, s.db, forgetBlobsSQL, gone)
	return errors.Join(err, failed)
}

const (
	enterAttachmentSQL = `SELECT enter_attachment($1, $2, $3)`
	// deleteAttachmentSQL leaves its blobs without an attachment.
	deleteAttachmentSQL = `
	WITH a AS (DELETE FROM attachments WHERE id = $1 RETURNING *)
	SELECT log_change(project_id, $2, 'attachment.deleted', task_id,
		jsonb_build_object('attachmentId', jsonb_build_array(id, NULL), 'name', jsonb_build_array(name, NULL))) FROM a`
)

// handleDeleteAttachment deletes a file for good, for whoever put it there, or an admin of the project.
func (s *server) handleDeleteAttachment(w http.ResponseWriter, r *http.Request) error {
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	b := &pgx.Batch{}
	b.Queue(enterAttachmentSQL, id, me, ifMatch(r))
	b.Queue(deleteAttachmentSQL, id, me)
	if err := s.sendTelling(r.Context(), b, fact{Kind: "attachment.deleted", Actor: me, Subject: &id}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

const (
	abandonBlobsSQL = `UPDATE blobs SET pending = false WHERE attachment_id IS NULL AND pending AND created_at < clock_timestamp() - $1::interval`
	looseBlobsSQL   = `SELECT key FROM blobs WHERE attachment_id IS NULL AND NOT pending AND key > $1 ORDER BY key LIMIT $2`
)

// blobKey is where a blob is.
type blobKey struct{ Key string }

// runAttachmentCleanup removes the blobs that belong to nothing: of attachments that were deleted, with their
// task or project or alone, and of uploads whose process died. What is gone is not found again, so repeating it
// is safe; one that the storage does not give up keeps no other.
func (s *server) runAttachmentCleanup(ctx context.Context, _ job, _ *pgx.Batch) error {
	if _, err := execute(ctx, s.db, abandonBlobsSQL, uploadLife); err != nil {
		return fmt.Errorf("abandon uploads: %w", err)
	}
	var failed error
	for last := ""; ; {
		found, err := queryAll[blobKey](ctx, s.db, looseBlobsSQL, last, cleanupChunk)
		if err != nil || len(found) == 0 {
			return errors.Join(err, failed)
		}
		var keys []string
		for _, b := range found {
			keys = append(keys, b.Key)
		}
		last = slices.Max(keys)
		if err := s.removeBlobs(ctx, keys...); err != nil {
			failed = err
		}
	}
}
