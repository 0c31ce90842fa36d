package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"
)

// s3Server is S3 as far as it is used, in memory. It judges signatures by itself, from what has come over the
// wire, and has nothing in common with the code that makes them.
type s3Server struct {
	*httptest.Server
	mu      sync.Mutex
	objects map[string][]byte
	uploads map[string]map[int][]byte // by key, space, id
	refused []string                  // why requests were refused
	asked   []string                  // method and address of every request

	keys bucketKeys                // that it takes
	fail func(r *http.Request) int // the status of a request that is to fail, or 0; nil: none
}

const (
	s3Key    = "AKIDEXAMPLE"
	s3Secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	s3Token  = "token/of+a=session"
)

func newS3Server(t *testing.T) *s3Server {
	t.Helper()
	s := &s3Server{objects: map[string][]byte{}, uploads: map[string]map[int][]byte{}, keys: s3Keys()}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// settings are those of its bucket, for an environment.
func (s *s3Server) settings(more string) []string {
	return []string{"STORAGE_URL=s3://attic?region=eu-north-1&endpoint=" + s.URL + more, "AWS_ACCESS_KEY_ID=" + s3Key, "AWS_SECRET_ACCESS_KEY=" + s3Secret, "AWS_SESSION_TOKEN=" + s3Token}
}

func s3Keys() bucketKeys { return bucketKeys{access: s3Key, secret: s3Secret, session: s3Token} }

func (s *s3Server) bucket() *s3Bucket {
	return newBucket(bucketSettings{name: "attic", region: "eu-north-1", endpoint: s.URL, keys: s3Keys()})
}

func (s *s3Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, r.Method+" "+r.RequestURI)
	refuse := func(status int, code, why string) {
		s.refused = append(s.refused, code+": "+why)
		w.WriteHeader(status)
		fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>%s</Message></Error>`, code, why)
	}
	if s.fail != nil {
		if status := s.fail(r); status != 0 {
			refuse(status, "InternalError", "as the test wants it")
			return
		}
	}
	if why := judgeSignature(r, body, s.keys); why != "" {
		refuse(403, "SignatureDoesNotMatch", why)
		return
	}
	path, inBucket := strings.CutPrefix(r.URL.Path, "/attic/")
	query := r.URL.Query()
	id := path + " " + query.Get("uploadId")
	parts, known := s.uploads[id]
	switch {
	case !inBucket:
		refuse(404, "NoSuchBucket", r.URL.Path)
	case path == "" && query.Has("uploads"):
		for id := range s.uploads {
			if key, upload, _ := strings.Cut(id, " "); strings.HasPrefix(key, query.Get("prefix")) {
				fmt.Fprintf(w, "<Upload><Key>%s</Key><UploadId>%s</UploadId></Upload>", key, upload)
			}
		}
	case r.Method == "POST" && query.Has("uploads"):
		upload := fmt.Sprintf("upload/%d+", len(s.asked)) // signs that must be escaped
		s.uploads[path+" "+upload] = map[int][]byte{}
		fmt.Fprintf(w, "<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>", upload)
	case query.Has("uploadId") && !known:
		refuse(404, "NoSuchUpload", id)
	case r.Method == "PUT" && known:
		n, _ := strconv.Atoi(query.Get("partNumber"))
		parts[n] = body
		w.Header().Set("ETag", etagOf(body))
	case r.Method == "DELETE" && known:
		delete(s.uploads, id)
		w.WriteHeader(204)
	case r.Method == "POST" && known:
		whole, why := assemble(parts, string(body))
		if why != "" {
			refuse(400, "InvalidPart", why)
			return
		}
		delete(s.uploads, id)
		s.objects[path] = whole
		fmt.Fprint(w, "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")
	case r.Method == "PUT":
		s.objects[path] = body
	case r.Method == "DELETE":
		delete(s.objects, path)
		w.WriteHeader(204)
	case r.Method == "GET":
		object, known := s.objects[path]
		if !known {
			refuse(404, "NoSuchKey", path)
			return
		}
		w.Header().Set("Content-Type", query.Get("response-content-type"))
		w.Header().Set("Content-Disposition", query.Get("response-content-disposition"))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(object))
	default:
		refuse(405, "MethodNotAllowed", r.Method)
	}
}

func etagOf(part []byte) string { return fmt.Sprintf(`"%x"`, md5.Sum(part)) }

// assemble puts the parts of an upload together, as the request that ends it lists them.
func assemble(parts map[int][]byte, list string) (whole []byte, why string) {
	listed := regexp.MustCompile(`<Part><PartNumber>(\d+)</PartNumber><ETag>&#34;([0-9a-f]+)&#34;</ETag></Part>`).FindAllStringSubmatch(list, -1)
	for i, part := range listed {
		n, _ := strconv.Atoi(part[1])
		data, known := parts[n]
		switch {
		case n != i+1 || !known || etagOf(data) != `"`+part[2]+`"`:
			return nil, "part " + part[1]
		case i < len(listed)-1 && len(data) < 5<<20:
			return nil, "a part that is too small"
		}
		whole = append(whole, data...)
	}
	if len(listed) != len(parts) {
		return nil, "some parts"
	}
	return whole, ""
}

// judgeSignature says what is wrong with the signature of a request by some keys, "" for nothing.
func judgeSignature(r *http.Request, body []byte, keys bucketKeys) string {
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		io.WriteString(h, text)
		return h.Sum(nil)
	}
	escape := func(text string) (out string) {
		for _, c := range []byte(text) {
			if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
				out += string(rune(c))
			} else {
				out += fmt.Sprintf("%%%02X", c)
			}
		}
		return out
	}
	query := r.URL.Query()
	var credential, signed, signature, date, payload, token string
	if query.Has("X-Amz-Signature") {
		credential, signed, signature, date, token = query.Get("X-Amz-Credential"), query.Get("X-Amz-SignedHeaders"), query.Get("X-Amz-Signature"), query.Get("X-Amz-Date"), query.Get("X-Amz-Security-Token")
		payload = "UNSIGNED-PAYLOAD"
		query.Del("X-Amz-Signature")
	} else {
		found := regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^,]+), ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})$`).FindStringSubmatch(r.Header.Get("Authorization"))
		if found == nil {
			return "no signature"
		}
		credential, signed, signature = found[1], found[2], found[3]
		date, payload, token = r.Header.Get("X-Amz-Date"), r.Header.Get("X-Amz-Content-Sha256"), r.Header.Get("X-Amz-Security-Token")
		if payload != fmt.Sprintf("%x", sha256.Sum256(body)) {
			return "another payload"
		}
	}
	at, err := time.Parse("20060102T150405Z", date)
	life := 15 * time.Minute
	if seconds, err := strconv.Atoi(query.Get("X-Amz-Expires")); err == nil {
		life = time.Duration(seconds) * time.Second
	}
	if err != nil || time.Since(at) > life || time.Since(at) < -15*time.Minute {
		return "another time"
	}
	if credential != string(keys.access)+"/"+date[:8]+"/eu-north-1/s3/aws4_request" || token != string(keys.session) {
		return "another key"
	}
	var pairs []string
	for name, values := range query {
		for _, value := range values {
			pairs = append(pairs, escape(name)+"="+escape(value))
		}
	}
	slices.Sort(pairs)
	names := strings.Split(signed, ";")
	if !slices.IsSorted(names) || !slices.Contains(names, "host") {
		return "the list of headers"
	}
	for name := range r.Header {
		if name := strings.ToLower(name); strings.HasPrefix(name, "x-amz-") && !slices.Contains(names, name) {
			return name + " is not signed"
		}
	}
	canonical := r.Method + "\n" + r.URL.EscapedPath() + "\n" + strings.Join(pairs, "&") + "\n"
	for _, name := range names {
		value := r.Header.Get(name)
		if name == "host" {
			value = r.Host
		}
		canonical += name + ":" + value + "\n"
	}
	canonical += "\n" + signed + "\n" + payload
	key := mac(mac(mac(mac([]byte("AWS4"+string(keys.secret)), date[:8]), "eu-north-1"), "s3"), "aws4_request")
	toSign := "AWS4-HMAC-SHA256\n" + date + "\n" + date[:8] + "/eu-north-1/s3/aws4_request\n" + fmt.Sprintf("%x", sha256.Sum256([]byte(canonical)))
	if fmt.Sprintf("%x", mac(key, toSign)) != signature {
		return "another signature than of\n" + canonical
	}
	return ""
}

// left is how many objects and unfinished uploads there are.
func (s *s3Server) left() (objects, uploads int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.objects), len(s.uploads)
}

// The example that Amazon gives for the header, with its key, date and signature:
// https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
func TestSignaturesAreThoseOfAmazonsExamples(t *testing.T) {
	t.Parallel()
	b := newBucket(bucketSettings{name: "examplebucket", region: "us-east-1"})
	b.now = func() time.Time { return time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC) }
	for _, test := range []struct{ address, want string }{
		{"https://examplebucket.s3.amazonaws.com/?lifecycle=", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
		{"https://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
	} {
		r := httptest.NewRequest("GET", test.address, nil)
		b.sign(r, hexSum(nil), bucketKeys{access: "AKIAIOSFODNN7EXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"})
		if got := r.Header.Get("Authorization"); !strings.HasSuffix(got, ",Signature="+test.want) {
			t.Errorf("%s: got %s, want %s", test.address, got, test.want)
		}
	}
	if b.base.String() != "https://examplebucket.s3.us-east-1.amazonaws.com/" {
		t.Errorf("got %s", b.base)
	}
}

// TestStoragesKeepTheirPromises holds both kinds of storage to what blobStore says.
func TestStoragesKeepTheirPromises(t *testing.T) {
	t.Parallel()
	attic := newS3Server(t)
	dir := folder{t.TempDir()}
	files := &testServer{t: t, server: &server{config: config{storageDir: dir.dir}}}
	for name, storage := range map[string]struct {
		blobStore
		left func() (blobs, unfinished int)
	}{
		"a folder": {dir, func() (int, int) { return files.stored(), 0 }},
		"a bucket": {attic.bucket(), attic.left},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			read := func(key string, offset, n int64) (string, error) {
				content, err := storage.open(ctx, key, offset, n)
				if err != nil {
					return "", err
				}
				defer content.Close()
				text, err := io.ReadAll(content)
				return string(text), err
			}
			sizes := []int{0, 1, s3Part - 1, s3Part, s3Part + 1, 2*s3Part + 17}
			for i, size := range sizes {
				key, content := fmt.Sprintf("KEY%d", i), string(bytes.Repeat([]byte("0123456789abcde"), size/15+1)[:size])
				if err := storage.put(ctx, key, iotest.DataErrReader(strings.NewReader(content))); err != nil {
					t.Fatal(err)
				}
				if got, err := read(key, 0, int64(size)); err != nil || got != content {
					t.Errorf("%d bytes: got %d, %v", size, len(got), err)
				}
				if size > 1 {
					if got, err := read(key, int64(size)-2, 2); err != nil || got != content[size-2:] {
						t.Errorf("the end of %d bytes: got %q, %v", size, got, err)
					}
				}
			}
			for _, size := range []int{0, 10, s3Part, 2*s3Part + 1} {
				broken := errors.New("the client has gone")
				err := storage.put(ctx, "BROKEN", io.MultiReader(strings.NewReader(strings.Repeat("x", size)), iotest.ErrReader(broken)))
				if !errors.Is(err, broken) {
					t.Errorf("got %v", err)
				}
				if _, err := read("BROKEN", 0, 1); err == nil {
					t.Errorf("%d bytes of an upload that broke are there", size)
				}
			}
			if blobs, unfinished := storage.left(); blobs != len(sizes) || unfinished != 0 {
				t.Errorf("got %d blobs and %d unfinished, want %d and 0", blobs, unfinished, len(sizes))
			}
			for i := range sizes {
				for range 2 {
					if err := storage.delete(ctx, fmt.Sprintf("KEY%d", i)); err != nil {
						t.Error(err)
					}
				}
			}
			if err := storage.delete(ctx, "NEVERTHERE"); err != nil {
				t.Error(err)
			}
			if _, err := read("KEY1", 0, 1); err == nil {
				t.Error("a blob that was deleted is there")
			} else if e, ok := errors.AsType[*storageError](err); !ok || e.full {
				t.Errorf("got %v", err)
			}
			if blobs, _ := storage.left(); blobs != 0 {
				t.Errorf("%d blobs are left", blobs)
			}
		})
	}
	if slices.ContainsFunc(attic.refused, func(why string) bool { return !strings.HasPrefix(why, "NoSuchKey") }) {
		t.Errorf("the bucket refused %q", attic.refused)
	}
}

func TestABucketThatFails(t *testing.T) {
	t.Parallel()
	large := func() io.Reader { return strings.NewReader(strings.Repeat("x", 2*s3Part)) }
	t.Run("once is asked again", func(t *testing.T) {
		s := newS3Server(t)
		failed := map[string]bool{}
		s.fail = func(r *http.Request) int {
			what := r.Method + " " + r.URL.Query().Get("partNumber")
			if failed[what] {
				return 0
			}
			failed[what] = true
			return 503
		}
		if err := s.bucket().put(t.Context(), "KEY", large()); err != nil || len(s.objects["KEY"]) != 2*s3Part || len(failed) < 3 {
			t.Errorf("got %v and %d bytes after %v", err, len(s.objects["KEY"]), failed)
		}
		if err := s.bucket().delete(t.Context(), "KEY"); err != nil {
			t.Error(err)
		}
		if objects, _ := s.left(); objects != 0 {
			t.Errorf("%d are left", objects)
		}
	})
	t.Run("for good leaves nothing, or what delete finds", func(t *testing.T) {
		s := newS3Server(t)
		s.fail = func(r *http.Request) int {
			if r.URL.Query().Get("partNumber") == "2" || r.Method == "DELETE" {
				return 400
			}
			return 0
		}
		err := s.bucket().put(t.Context(), "KEY", large())
		if e, ok := errors.AsType[*storageError](err); !ok || e.full || !strings.Contains(err.Error(), "400 InternalError: as the test wants it") {
			t.Errorf("got %v", err)
		}
		if objects, uploads := s.left(); objects != 0 || uploads != 1 {
			t.Errorf("got %d objects and %d uploads", objects, uploads)
		}
		s.fail = nil
		if err := s.bucket().delete(t.Context(), "KEY"); err != nil {
			t.Error(err)
		}
		if _, uploads := s.left(); uploads != 0 {
			t.Error("the upload is left")
		}
	})
	t.Run("after it has said 200 has failed", func(t *testing.T) {
		late := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("ETag", `"x"`)
			if r.URL.Query().Has("uploads") {
				fmt.Fprint(w, "<UploadId>1</UploadId>")
			} else if r.Method == "POST" {
				fmt.Fprint(w, "<Error><Code>InternalError</Code></Error>")
			}
		}))
		defer late.Close()
		b := newBucket(bucketSettings{name: "attic", region: "eu-north-1", endpoint: late.URL, keys: s3Keys()})
		if err := b.put(t.Context(), "KEY", large()); err == nil || !strings.Contains(err.Error(), "InternalError") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("as it is full says so, and is not asked again", func(t *testing.T) {
		s := newS3Server(t)
		s.fail = func(*http.Request) int { return 507 }
		err := s.bucket().put(t.Context(), "KEY", strings.NewReader("x"))
		if !isFull(err) || len(s.asked) != 1 {
			t.Errorf("got %v after %v", err, s.asked)
		}
	})
	t.Run("with another key or at another time is refused", func(t *testing.T) {
		s := newS3Server(t)
		for name, spoil := range map[string]func(b *s3Bucket){
			"secret": func(b *s3Bucket) { b.keys.secret = "another" }, "key": func(b *s3Bucket) { b.keys.access = "another" }, "token": func(b *s3Bucket) { b.keys.session = "" },
			"region": func(b *s3Bucket) { b.region = "eu-west-1" }, "time": func(b *s3Bucket) { b.now = func() time.Time { return time.Now().Add(-time.Hour) } },
		} {
			b := s.bucket()
			spoil(b)
			err := b.put(t.Context(), "KEY", strings.NewReader("x"))
			if err == nil || !strings.Contains(err.Error(), "403 SignatureDoesNotMatch") || strings.Contains(err.Error(), s3Secret) {
				t.Errorf("another %s: got %v", name, err)
			}
		}
	})
	t.Run("is out of reach", func(t *testing.T) {
		s := newS3Server(t)
		s.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.bucket().put(ctx, "KEY", strings.NewReader("x")); err == nil || isFull(err) || ctx.Err() != nil {
			t.Errorf("got %v", err)
		}
	})
}

func TestLinksIntoABucket(t *testing.T) {
	t.Parallel()
	s := newS3Server(t)
	b := s.bucket()
	if err := b.put(t.Context(), "KEY", strings.NewReader("content")); err != nil {
		t.Fatal(err)
	}
	fetch := func(link string) (int, http.Header, string) {
		t.Helper()
		resp, err := http.Get(link)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, resp.Header, string(body)
	}
	disposition := offer("Übersicht & more+.txt")
	presign := func() string {
		t.Helper()
		link, err := b.link(t.Context(), "KEY", disposition, "text/plain", linkLife)
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	link := presign()
	if status, header, body := fetch(link); status != 200 || body != "content" || header.Get("Content-Disposition") != disposition || header.Get("Content-Type") != "text/plain" {
		t.Errorf("got %d, %v, %q", status, header, body)
	}
	u, _ := url.Parse(link)
	if got := u.Query().Get("X-Amz-Expires"); got != "120" {
		t.Errorf("it is good for %s s", got)
	}
	for name, other := range map[string]string{
		"another key":  strings.Replace(link, "/KEY?", "/OTHER?", 1),
		"another name": strings.Replace(link, "more", "less", 1),
		"a later end":  strings.Replace(link, "X-Amz-Expires=120", "X-Amz-Expires=99999", 1),
	} {
		if status, _, _ := fetch(other); status != 403 || other == link {
			t.Errorf("%s: got %d", name, status)
		}
	}
	b.now = func() time.Time { return time.Now().Add(-linkLife - time.Second) }
	if status, _, _ := fetch(presign()); status != 403 {
		t.Errorf("an old link: got %d", status)
	}
}

// The whole way through, with files in a bucket.
func TestAttachmentsInABucket(t *testing.T) {
	t.Parallel()
	s := newS3Server(t)
	for _, downloads := range []string{"", "&downloads=through"} {
		t.Run("downloads"+downloads, func(t *testing.T) {
			ts := newTestServer(t, s.settings(downloads)...)
			ada := ts.signUp("Ada")
			task := ada.task(ada.project("Launch"), "Ship")
			content := strings.Repeat("0123456789", s3Part/8)
			ts.unrecorded = true // what is large
			id := ada.attach(task, "large.txt", content)
			path := "/api/v1/attachments/" + id
			ada.get(path).want(200).is("size", float64(len(content))).is("checksum", hexSum([]byte(content))).is("contentType", "text/plain")
			if downloads == "" {
				a := ada.get(path + "/content").want(307)
				resp, err := http.Get(a.header.Get("Location"))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err != nil || string(body) != content || resp.Header.Get("Content-Disposition") != `attachment; filename="large.txt"` || a.header.Get("Cache-Control") != "no-store" {
					t.Errorf("got %d bytes, %v, %v", len(body), resp.Header, err)
				}
				ts.unrecorded = false
				ada.get(path + "/content").want(307)
				if strings.Contains(ts.log.String(), "X-Amz-Signature") {
					t.Error("the log has the link")
				}
			} else {
				if got := ada.get(path + "/content").want(200); string(got.body) != content {
					t.Errorf("got %d bytes", len(got.body))
				}
				if got := ada.with("Range", "bytes=-3").get(path + "/content").want(206); string(got.body) != content[len(content)-3:] {
					t.Errorf("got %q", got.body)
				}
			}
			ts.unrecorded = false
			image := ada.attach(task, "dot.png", dot)
			ts.process(image)
			ada.get("/api/v1/attachments/"+image).want(200).is("width", 2).is("thumbnail", true)
			ada.get("/api/v1/attachments/" + image + "/thumbnail").want(200)
			for _, id := range []string{id, image} {
				ada.delete("/api/v1/attachments/" + id).want(204)
			}
			ts.cleanUp()
			if objects, uploads := s.left(); objects != 0 || uploads != 0 || ts.count("blobs") != 0 {
				t.Errorf("%d objects, %d uploads and %d rows are left", objects, uploads, ts.count("blobs"))
			}
			if downloads == "" {
				return
			}
			s.mu.Lock()
			s.fail = func(*http.Request) int { return 503 }
			s.mu.Unlock()
			a := ada.post("/api/v1/tasks/"+task+"/attachments", formOf("a", "x")).problem(503, "unavailable")
			if a.header.Get("Retry-After") == "" || strings.Contains(string(a.body), "attic") {
				t.Errorf("got %v %s", a.header, a.body)
			}
			ada.get("/ready").want(200)
		})
	}
}
