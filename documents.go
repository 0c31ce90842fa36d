package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/jackc/pgx/v5"
)

// A document is what a GET answers about one project: a resource or a list of it. It is the same for
// all who may read the project, and whether the caller may is read together with it: from the cache
// in no round trip or one, from the database in one.
type document struct {
	project *uuid  // nil: not known before it is read
	name    string // among the project's
	read    func(ctx context.Context, who asker) (reader, content, error)
}

// text is the content in the cache: a line each for tag and link, and the body.
func (c content) text() []byte {
	return slices.Concat([]byte(c.tag+"\n"+c.link+"\n"), c.body)
}

func readContent(text []byte) content {
	tag, rest, _ := bytes.Cut(text, []byte("\n"))
	link, body, _ := bytes.Cut(rest, []byte("\n"))
	return content{string(tag), string(link), body}
}

// asker is who wants a document, as the statement that reads it takes it: $1 and $2.
type asker struct {
	session uuid // zero for an API token, which has been looked up
	user    uuid
}

// reader is what the same statement says of him.
type reader struct {
	CallerRole   globalRole
	CallerZone   string
	CallerUntil  timestamp
	ReadProject  uuid
	ReadAsMember *memberRole // nil: none
}

const (
	readerColumns = `u.role AS caller_role, u.timezone AS caller_zone, coalesce(s.expires_at, now()) AS caller_until, p.id AS read_project, m.role AS read_as_member`
	// readerTables join user u and session s of asker $1, $2 to projects p and what he is in them.
	readerTables = `users u LEFT JOIN sessions s ON s.id = $1 AND s.user_id = u.id AND s.revoked_at IS NULL AND s.expires_at > now()
	JOIN projects p ON p.deleted_at IS NULL LEFT JOIN members m ON m.project_id = p.id AND m.user_id = u.id`
	readerCondition = `u.id = $2 AND u.is_active AND (s.id IS NOT NULL OR $1 = '00000000-0000-0000-0000-000000000000'::uuid)`
	readerSQL       = `SELECT ` + readerColumns + ` FROM ` + readerTables + ` WHERE p.id = $3 AND ` + readerCondition
)

func (who reader) caller(a asker) caller {
	return caller{ID: a.user, Session: a.session, Role: who.CallerRole, Timezone: who.CallerZone, Until: who.CallerUntil}
}

// readerWidth is the number of readerColumns.
const readerWidth = 5

// readReader reads readerColumns as PostgreSQL sends them.
func readReader(values [][]byte) (reader, error) {
	if len(values) < readerWidth || len(values[2]) != 8 || len(values[3]) != 16 {
		return reader{}, errors.New("the columns of a reader are not as expected")
	}
	who := reader{
		CallerRole: globalRole(values[0]), CallerZone: string(values[1]), CallerUntil: timestamp{readTimestamptz(values[2])},
		ReadProject: uuid(values[3]),
	}
	if values[4] != nil {
		role := memberRole(values[4])
		who.ReadAsMember = &role
	}
	return who, nil
}

// queryResource reads one resource, whose version is the last column of a statement that begins with
// readerColumns.
func (s *server) queryResource(ctx context.Context, sql string, args ...any) (who reader, c content, err error) {
	err = s.db.query(ctx, func(rows pgx.Rows) error {
		defer rows.Close()
		if !rows.Next() {
			return cmp.Or(rows.Err(), pgx.ErrNoRows)
		}
		values := rows.RawValues()
		if who, err = readReader(values); err != nil {
			return err
		}
		version := binary.BigEndian.Uint64(values[len(values)-1])
		encoder := newRowEncoder(rows, readerWidth, len(values))
		if c.body, err = encoder.append(make([]byte, 0, 1024), values[readerWidth:]); err != nil {
			return err
		}
		c.tag, c.body = entityTag(int64(version)), append(c.body, '\n')
		return nil
	}, sql, args...)
	return who, c, err
}

// member is the role as the cache has it, "-" for none.
func (who reader) member() []byte {
	if who.ReadAsMember == nil {
		return []byte("-")
	}
	return []byte(*who.ReadAsMember)
}

// mayRead tells whether a caller reads a project in which he has this role.
func mayRead(who caller, member []byte) bool { return who.seesAll() || string(member) != "-" }

// writeDocument answers a document, or 304 where the client already has it. Its routes are those for
// readers, whose token has been verified.
func (s *server) writeDocument(w http.ResponseWriter, r *http.Request, d document) error {
	c, err := s.readDocument(r.Context(), recorderOf(w).claims, d)
	if err != nil {
		return err
	}
	if c.tag == "" || !notModified(w, r, c.tag) {
		c.write(w)
	}
	return nil
}

// maxWaits is how often a request waits for others that make the document, before it reads it itself.
const maxWaits = 3

// readDocument is the document, if the caller may read it.
func (s *server) readDocument(ctx context.Context, cl claims, d document) (c content, err error) {
	var sight *sight
	end := func(error) {}
	for try := 0; d.project != nil; try++ {
		keys := []key{{*d.project, "member/" + cl.Subject.String()}, {*d.project, d.name}, cl.key()}
		if cl.Session == (uuid{}) {
			keys = keys[:2]
		}
		sight = s.cache.look(ctx, keys...)
		who, alive := callerOf(ctx), true
		if cl.Session != (uuid{}) {
			who, alive = readCaller(cl, sight.bodies[2])
		}
		if alive && sight.whole() {
			if !mayRead(who, sight.bodies[0]) {
				return content{}, newProblem("not_found", "")
			}
			return readContent(sight.bodies[1]), nil
		}
		if sight.bodies[1] != nil || try == maxWaits {
			break
		}
		first, wait := s.cache.fill(sight, 1)
		if wait == nil {
			end = first
			break
		}
		select { // somebody else is making it
		case <-wait.through:
			if wait.err != nil {
				return content{}, wait.err
			}
		case <-ctx.Done():
			return content{}, ctx.Err()
		}
	}
	defer func() {
		if _, busy := errors.AsType[*unavailableError](err); busy { // it would be to the others too
			end(err)
		} else {
			end(nil)
		}
	}()
	return s.makeDocument(ctx, cl, d, sight)
}

// makeDocument reads the document from the database, and keeps it where the sight allows that.
func (s *server) makeDocument(ctx context.Context, cl claims, d document, sight *sight) (content, error) {
	a := asker{cl.Session, cl.Subject}
	who, c, err := d.read(ctx, a)
	if p, ok := errors.AsType[*problem](err); ok && p.Code == "not_found" && cl.Session != (uuid{}) {
		if _, err := s.sessionCaller(ctx, cl); err != nil { // that is why
			return content{}, err
		}
	}
	if err != nil {
		return content{}, err
	}
	if d.project != nil && who.ReadProject == *d.project {
		s.cache.keep(sight, 0, who.member())
		s.cache.keep(sight, 1, c.text())
		if cl.Session != (uuid{}) {
			s.cache.keep(sight, 2, who.caller(a).entry())
		}
	}
	if !mayRead(who.caller(a), who.member()) {
		return content{}, newProblem("not_found", "")
	}
	return c, nil
}

// runRaise tells all processes of changes that a program outside of them has made to scopes. To tell
// it again only has them read again.
func (s *server) runRaise(_ context.Context, j job, _ *pgx.Batch) error {
	var scopes []uuid
	if err := json.Unmarshal(j.Payload, &scopes); err != nil {
		return permanent(fmt.Errorf("read payload: %w", err))
	}
	s.db.changed(scopes)
	return nil
}
