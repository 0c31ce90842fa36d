package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"html"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	s3Part      = 5 << 20          // bytes of a part, the least that S3 takes; each upload holds one in memory
	s3Attempts  = 4                // of a request that may be repeated
	s3Patience  = 2 * time.Minute  // with one request that is no download
	s3Silence   = 30 * time.Second // of a download, before it is given up
	s3Cleanup   = 20 * time.Second // for undoing an upload
	maxS3Answer = 1 << 20          // bytes read of an answer that is no download
	unsigned    = "UNSIGNED-PAYLOAD"
)

// s3Bucket is a blobStore in S3, or what speaks its language. Requests are signed by AWS Signature Version 4:
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
type s3Bucket struct {
	bucketSettings
	base   *url.URL  // of all blobs, with a slash at the end
	role   *roleKeys // has the keys, or nil where they are set
	client *http.Client
	now    func() time.Time
}

// newBucket does not ask whether the bucket is there. Without an endpoint of its own it is Amazon's, and a
// part of the host's name; elsewhere it is the first part of the path.
func newBucket(set bucketSettings) *s3Bucket {
	base, _ := url.Parse(cmp.Or(strings.TrimRight(set.endpoint, "/"), "https://"+set.name+".s3."+set.region+".amazonaws.com")) // config.check has read it
	if set.endpoint != "" {
		base.Path += "/" + set.name
	}
	base.Path += "/"
	b := &s3Bucket{bucketSettings: set, base: base, now: time.Now, client: &http.Client{
		Transport: &http.Transport{
			DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			TLSHandshakeTimeout:   5 * time.Second,
			ResponseHeaderTimeout: time.Minute,
			MaxIdleConnsPerHost:   16,
			IdleConnTimeout:       time.Minute,
			DisableCompression:    true,
			ForceAttemptHTTP2:     true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // a signature is for one address
	}}
	if set.role.address != "" {
		b.role = newRoleKeys(set.role)
	}
	return b
}

// signing is the keys to sign with now.
func (b *s3Bucket) signing(ctx context.Context) (bucketKeys, error) {
	if b.role == nil {
		return b.keys, nil
	}
	keys, err := b.role.current(ctx)
	if err != nil {
		return keys, &storageError{cause: err}
	}
	return keys, nil
}

// put sends a small blob as it is and a large one in parts, each signed and, if it must be, repeated.
// Only the last request of all makes a blob of them.
func (b *s3Bucket) put(ctx context.Context, key string, r io.Reader) error {
	part, err := readPart(r, nil)
	if err == io.EOF {
		_, err := b.request(ctx, "PUT", key, nil, part)
		return err
	}
	if err != nil {
		return err
	}
	begun, err := b.request(ctx, "POST", key, url.Values{"uploads": {""}}, nil)
	if err != nil {
		return err
	}
	upload := url.Values{"uploadId": elements(begun.text, "UploadId")}
	if len(upload["uploadId"]) != 1 { // without it a part would be taken for the whole
		return s3Error("POST", begun)
	}
	err = b.putParts(ctx, key, upload, part, r)
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s3Cleanup)
		defer cancel()
		b.request(ctx, "DELETE", key, upload, nil) // where this fails too, delete finds it
	}
	return err
}

// putParts sends the parts of an upload, of which the first has been read, and ends it.
func (b *s3Bucket) putParts(ctx context.Context, key string, upload url.Values, part []byte, r io.Reader) error {
	var list bytes.Buffer
	list.WriteString("<CompleteMultipartUpload>")
	var end error
	for n := 1; len(part) > 0; n++ {
		number := strconv.Itoa(n)
		sent, err := b.request(ctx, "PUT", key, url.Values{"uploadId": upload["uploadId"], "partNumber": {number}}, part)
		if err != nil {
			return err
		}
		fmt.Fprintf(&list, "<Part><PartNumber>%s</PartNumber><ETag>%s</ETag></Part>", number, html.EscapeString(sent.header.Get("ETag")))
		if end == io.EOF {
			break
		}
		if part, end = readPart(r, part); end != nil && end != io.EOF {
			return end
		}
	}
	list.WriteString("</CompleteMultipartUpload>")
	done, err := b.request(ctx, "POST", key, upload, list.Bytes())
	if err == nil && strings.Contains(done.text, "<Error>") { // S3 answers 200 before it knows
		err = s3Error("POST", done)
	}
	return err
}

// readPart reads up to s3Part bytes into a buffer that grows as it must. io.EOF tells that they are the last.
func readPart(r io.Reader, buffer []byte) ([]byte, error) {
	buffer = buffer[:0]
	for {
		if len(buffer) == cap(buffer) {
			if len(buffer) >= s3Part {
				return buffer, nil
			}
			buffer = append(make([]byte, 0, min(s3Part, max(64<<10, 4*cap(buffer)))), buffer...)
		}
		n, err := r.Read(buffer[len(buffer):cap(buffer)])
		buffer = buffer[:len(buffer)+n]
		if err != nil {
			return buffer, err
		}
	}
}

// open starts a download. Its end is the caller's to wait for, but not when nothing comes any more.
func (b *s3Bucket) open(ctx context.Context, key string, offset, n int64) (io.ReadCloser, error) {
	if n == 0 {
		return http.NoBody, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	r, err := b.newRequest(ctx, "GET", key, nil, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+n-1))
	resp, err := b.client.Do(r)
	if err != nil {
		cancel()
		return nil, &storageError{cause: err}
	}
	if resp.StatusCode != http.StatusPartialContent {
		got := readAnswer(resp)
		cancel()
		return nil, s3Error("GET", got)
	}
	return &download{resp.Body, time.AfterFunc(s3Silence, cancel), cancel}, nil
}

// download is a body that is given up when it falls silent.
type download struct {
	io.ReadCloser
	silence *time.Timer
	cancel  context.CancelFunc
}

func (d *download) Read(p []byte) (int, error) {
	d.silence.Reset(s3Silence)
	n, err := d.ReadCloser.Read(p)
	d.silence.Stop() // what the reader of this does meanwhile takes its own time
	return n, err
}

func (d *download) Close() error {
	d.silence.Stop()
	defer d.cancel()
	return d.ReadCloser.Close()
}

// delete also ends uploads that nobody will end any more, where the bucket lets us look for them.
func (b *s3Bucket) delete(ctx context.Context, key string) error {
	found, err := b.request(ctx, "GET", "", url.Values{"uploads": {""}, "prefix": {key}}, nil)
	if failed, ok := errors.AsType[*s3Failure](err); err != nil && (!ok || failed.status >= 500) {
		return err
	}
	for _, id := range elements(found.text, "UploadId") {
		if _, err := b.request(ctx, "DELETE", key, url.Values{"uploadId": {id}}, nil); err != nil && !isGone(err) {
			return err
		}
	}
	if _, err = b.request(ctx, "DELETE", key, nil, nil); isGone(err) {
		return nil
	}
	return err
}

// link is a presigned address:
// https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
func (b *s3Bucket) link(ctx context.Context, key, disposition, media string, life time.Duration) (string, error) {
	if b.through {
		return "", nil
	}
	keys, err := b.signing(ctx)
	if err != nil {
		return "", err
	}
	at := b.now().UTC()
	query := url.Values{
		"X-Amz-Algorithm": {"AWS4-HMAC-SHA256"}, "X-Amz-Credential": {string(keys.access) + "/" + b.scope(at)}, "X-Amz-Date": {at.Format(s3Time)},
		"X-Amz-Expires": {strconv.Itoa(int(life.Seconds()))}, "X-Amz-SignedHeaders": {"host"},
		"response-content-disposition": {disposition}, "response-content-type": {media},
	}
	if keys.session != "" {
		query.Set("X-Amz-Security-Token", string(keys.session))
	}
	address := *b.base
	address.Path += key
	address.RawQuery = canonicalQuery(query)
	address.RawQuery += "&X-Amz-Signature=" + b.signature(keys.secret, at, "GET", &address, "host:"+address.Host+"\n", "host", unsigned)
	return address.String(), nil
}

// s3Answer is an answer that has been read whole.
type s3Answer struct {
	status int
	header http.Header
	text   string
}

func readAnswer(resp *http.Response) s3Answer {
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxS3Answer))
	return s3Answer{resp.StatusCode, resp.Header, string(text)}
}

// request sends a request until it is answered for good. Each may be sent again: it puts the same bytes
// in the same place, or removes what is gone; an upload that is begun twice leaves one for delete.
func (b *s3Bucket) request(ctx context.Context, method, key string, query url.Values, body []byte) (got s3Answer, err error) {
	for attempt := 1; ; attempt++ {
		got, err = b.requestOnce(ctx, method, key, query, body)
		failed, answered := errors.AsType[*s3Failure](err)
		if err == nil || attempt == s3Attempts || ctx.Err() != nil || answered && failed.status < 500 && failed.status != http.StatusTooManyRequests || isFull(err) {
			return got, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(50+rand.IntN(100)) * time.Millisecond << (2 * (attempt - 1))):
		}
	}
}

func (b *s3Bucket) requestOnce(ctx context.Context, method, key string, query url.Values, body []byte) (s3Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, s3Patience)
	defer cancel()
	r, err := b.newRequest(ctx, method, key, query, body)
	if err != nil {
		return s3Answer{}, err
	}
	resp, err := b.client.Do(r)
	if err != nil {
		return s3Answer{}, &storageError{cause: err}
	}
	got := readAnswer(resp)
	if got.status/100 != 2 {
		return got, s3Error(method, got)
	}
	return got, nil
}

// newRequest makes a signed request for a blob, or for the bucket where the key is empty.
func (b *s3Bucket) newRequest(ctx context.Context, method, key string, query url.Values, body []byte) (*http.Request, error) {
	address := *b.base
	address.Path += key
	address.RawQuery = canonicalQuery(query)
	r, err := http.NewRequestWithContext(ctx, method, address.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request to the bucket: %w", err)
	}
	keys, err := b.signing(ctx)
	if err != nil {
		return nil, err
	}
	b.sign(r, hexSum(body), keys)
	return r, nil
}

const s3Time = "20060102T150405Z"

// sign puts the signature into the header; what is signed are the host and all of X-Amz-:
// https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
func (b *s3Bucket) sign(r *http.Request, payload string, keys bucketKeys) {
	at := b.now().UTC()
	r.Header.Set("X-Amz-Date", at.Format(s3Time))
	r.Header.Set("X-Amz-Content-Sha256", payload)
	if keys.session != "" {
		r.Header.Set("X-Amz-Security-Token", string(keys.session))
	}
	lines, names := []string{"host:" + r.URL.Host + "\n"}, []string{"host"}
	for name := range r.Header {
		names = append(names, strings.ToLower(name))
		lines = append(lines, strings.ToLower(name)+":"+strings.TrimSpace(r.Header.Get(name))+"\n")
	}
	slices.Sort(names)
	slices.Sort(lines)
	signed := strings.Join(names, ";")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+string(keys.access)+"/"+b.scope(at)+",SignedHeaders="+signed+
		",Signature="+b.signature(keys.secret, at, r.Method, r.URL, strings.Join(lines, ""), signed, payload))
}

// scope is what a signature is good for: a day, a region, a service.
func (b *s3Bucket) scope(at time.Time) string {
	return at.Format("20060102") + "/" + b.region + "/s3/aws4_request"
}

// signature signs a request in its canonical form, with a key that is derived for its scope.
func (b *s3Bucket) signature(by secret, at time.Time, method string, address *url.URL, headers, signed, payload string) string {
	canonical := strings.Join([]string{method, address.EscapedPath(), address.RawQuery, headers, signed, payload}, "\n")
	key := []byte("AWS4" + string(by))
	for _, part := range strings.Split(b.scope(at), "/") {
		key = hmacSum(key, part)
	}
	return hex.EncodeToString(hmacSum(key, "AWS4-HMAC-SHA256\n"+at.Format(s3Time)+"\n"+b.scope(at)+"\n"+hexSum([]byte(canonical))))
}

func hmacSum(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// canonicalQuery is sorted, and has spaces as %20.
func canonicalQuery(query url.Values) string { return strings.ReplaceAll(query.Encode(), "+", "%20") }

// elements are the texts of all elements of a name in XML. The answers of S3 are too simple for more than this.
func elements(text, name string) (list []string) {
	for {
		_, after, found := strings.Cut(text, "<"+name+">")
		value, rest, closed := strings.Cut(after, "</"+name+">")
		if !found || !closed {
			return list
		}
		list, text = append(list, html.UnescapeString(value)), rest
	}
}

// s3Failure is an answer that refuses something.
type s3Failure struct {
	status  int
	method  string
	code    string // such as NoSuchBucket
	message string
}

func (e *s3Failure) Error() string {
	return fmt.Sprintf("the bucket answers %s with %d %s: %s", e.method, e.status, e.code, e.message)
}

// s3Error keeps of an answer what tells the operator what is wrong, and nothing of what was signed.
func s3Error(method string, got s3Answer) error {
	e := &s3Failure{status: got.status, method: method, code: "no code", message: "no message"}
	for name, into := range map[string]*string{"Code": &e.code, "Message": &e.message} {
		if found := elements(got.text, name); found != nil {
			*into = printable(found[0], 200)
		}
	}
	return &storageError{got.status == http.StatusInsufficientStorage || e.code == "XMinioStorageFull" || e.code == "QuotaExceeded", e}
}

func isFull(err error) bool {
	e, ok := errors.AsType[*storageError](err)
	return ok && e.full
}

func isGone(err error) bool {
	e, ok := errors.AsType[*s3Failure](err)
	return ok && e.status == http.StatusNotFound && e.code != "NoSuchBucket"
}
