package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	maxFileName   = 255              // characters
	maxFormHead   = 64 << 10         // bytes of a form besides its file
	transferGrace = 30 * time.Second // that a client may lose in a transfer
	transferPace  = 16 << 10         // bytes that give it another second
	maxTransfer   = 12 * time.Hour
	sniffed       = 512 // bytes that tell what kind of file one is
)

// pace is the patience with a client that sends or takes a file: it ends when he was waited for too long,
// measured by what has gone through. What the storage takes is not his fault.
type pace struct {
	began  time.Time
	waited time.Duration
	bytes  int64
}

// step does one read or write with the client, until a deadline, which set sets. One that cannot be set is the
// server's own.
func (p *pace) step(set func(time.Time) error, do func() (int, error)) (int, error) {
	start := time.Now()
	if p.began.IsZero() {
		p.began = start
	}
	deadline := start.Add(transferGrace + time.Duration(p.bytes/transferPace)*time.Second - p.waited)
	if last := p.began.Add(maxTransfer); deadline.After(last) {
		deadline = last
	}
	set(deadline)
	n, err := do()
	p.bytes += int64(n)
	p.waited += time.Since(start)
	return n, err
}

// outflow writes an answer at the client's pace.
type outflow struct {
	pace
	to   io.Writer
	conn *http.ResponseController
	err  error // of the client
}

// newOutflow ends the server's own deadline for reading: it would end the request, of which nothing is to be read.
func newOutflow(w http.ResponseWriter) *outflow {
	o := &outflow{to: w, conn: http.NewResponseController(w)}
	o.conn.SetReadDeadline(time.Time{})
	return o
}

func (o *outflow) Write(b []byte) (int, error) {
	n, err := o.step(o.conn.SetWriteDeadline, func() (int, error) { return o.to.Write(b) })
	o.err = err
	return n, err
}

// form is a multipart/form-data body (RFC 7578) with one file and nothing else, read as it comes.
type form struct {
	pace
	body  io.Reader
	conn  *http.ResponseController
	head  int64 // bytes that may still come before the file begins or after it has ended
	free  bool  // the file is being read
	err   error // of the body, which the parser may tell otherwise
	parts *multipart.Reader
}

// newForm checks what the header says of a body, of which it reads nothing. What is answered has no deadline
// before answerSoon gives it one.
func newForm(w http.ResponseWriter, r *http.Request) (*form, error) {
	if err := checkEncoding(r); err != nil {
		return nil, err
	}
	media, params, err := mime.ParseMediaType(strings.Join(r.Header.Values("Content-Type"), ","))
	boundary := params["boundary"]
	if err != nil || media != "multipart/form-data" || len(boundary) < 1 || len(boundary) > 70 { // RFC 2046, section 5.1.1
		return nil, newProblem("unsupported_media", "Send the file as the part named file of a multipart/form-data body, with the boundary in Content-Type.")
	}
	f := &form{body: r.Body, conn: http.NewResponseController(w), head: maxFormHead}
	f.conn.SetWriteDeadline(time.Time{})
	f.parts = multipart.NewReader(f, boundary)
	return f, nil
}

var errFormHead = errors.New("too much around the file")

// Read reads the body for the parser, and of what is not file only so much.
func (f *form) Read(p []byte) (int, error) {
	if !f.free {
		if f.head == 0 {
			f.err = errFormHead
			return 0, f.err
		}
		p = p[:min(int64(len(p)), f.head)]
	}
	n, err := f.step(f.conn.SetReadDeadline, func() (int, error) { return f.body.Read(p) })
	if !f.free {
		f.head -= int64(n)
	}
	switch {
	case err == nil:
	case err != io.EOF:
		f.err = err
	default:
		f.conn.SetReadDeadline(time.Time{}) // passing, it would end the request while the storage takes its time
	}
	return n, err
}

// answerSoon gives the answer its time, whenever the storage is through.
func (f *form) answerSoon() { f.conn.SetWriteDeadline(time.Now().Add(transferGrace)) }

// file goes to the file and returns its name, fit to be shown.
func (f *form) file() (name string, file io.Reader, err error) {
	part, err := f.parts.NextRawPart()
	if err == io.EOF {
		return "", nil, invalid(fieldError{"file", "required", "must be given"})
	}
	if err != nil {
		return "", nil, f.broken(err)
	}
	field, name, given := disposition(part)
	switch {
	case field != "file":
		return "", nil, unknownPart(field)
	case !given:
		return "", nil, invalid(fieldError{"file", "required", "must be a file, with a filename in its Content-Disposition"})
	case !slices.Contains([]string{"", "7bit", "8bit", "binary"}, strings.ToLower(part.Header.Get("Content-Transfer-Encoding"))):
		return "", nil, newProblem("bad_request", "The file must come as it is, without a Content-Transfer-Encoding (RFC 7578, section 4.7).")
	}
	f.free = true
	return cleanFileName(name), part, nil
}

// end makes sure that the form ends where the file does.
func (f *form) end() error {
	f.free = false
	part, err := f.parts.NextRawPart()
	switch {
	case err == io.EOF:
		return nil
	case err != nil:
		return f.broken(err)
	}
	if field, _, _ := disposition(part); field != "file" {
		return unknownPart(field)
	}
	return invalid(fieldError{"file", "repeated", "must be given once: one request for each file"})
}

// disposition is a part's name, and its filename if it has one.
func disposition(part *multipart.Part) (field, filename string, given bool) {
	kind, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
	if err != nil || kind != "form-data" {
		return "", "", false
	}
	filename, given = params["filename"]
	return params["name"], filename, given
}

func unknownPart(field string) error {
	if field == "" {
		return newProblem("bad_request", "A part of the form has no name in its Content-Disposition.")
	}
	return invalid(fieldError{printable(field, maxEcho), "unknown_field", "is not a field of this form; it takes file"})
}

// broken is the problem of a body that cannot be read on.
func (f *form) broken(err error) error {
	if f.err != nil {
		err = f.err
	}
	if beyond, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge(beyond.Limit)
	}
	switch {
	case errors.Is(err, errFormHead), errors.Is(err, multipart.ErrMessageTooLarge):
		return newProblem("body_too_large", fmt.Sprintf("The form may have %d bytes besides its file.", maxFormHead))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return newProblem("bad_request", fmt.Sprintf("The body came too slowly: after %v it must have brought %d bytes a second.", transferGrace, transferPace))
	}
	return newProblem("bad_request", "The body is not a form that ends with its boundary.")
}

// cleanFileName makes of what a client calls a file a name that is safe to show and to offer: the last
// part of a path, without control characters or those that turn the direction of writing, and at most
// maxFileName long, with its ending.
func cleanFileName(name string) string {
	name = strings.ToValidUTF8(name, string(utf8.RuneError))
	if i := strings.LastIndexAny(name, `/\`); i >= 0 {
		name = name[i+1:]
	}
	name = strings.Map(func(r rune) rune {
		if isControl(r) || turnsText(r) || unicode.In(r, unicode.Zl, unicode.Zp) {
			return -1
		}
		return r
	}, name)
	name = trimFileName(name)
	if n := utf8.RuneCountInString(name); n > maxFileName {
		stem, ending, _ := cutLast(name, ".")
		if length := utf8.RuneCountInString(ending); length > 16 || stem == "" {
			stem, ending = name, ""
		} else {
			ending = "." + ending
		}
		stem = string([]rune(stem)[:maxFileName-utf8.RuneCountInString(ending)])
		name = trimFileName(stem + ending)
	}
	if !strings.ContainsFunc(name, func(r rune) bool { return r != '.' && isVisible(r) }) {
		return "file"
	}
	return name
}

// trimFileName takes away what systems do not keep at the ends of names.
func trimFileName(name string) string {
	return strings.TrimRightFunc(strings.TrimLeftFunc(name, unicode.IsSpace), func(r rune) bool { return r == '.' || unicode.IsSpace(r) })
}

// offer is the Content-Disposition of a file to be kept, never shown (RFC 6266). Names that are not
// plain ASCII come twice, for those who do not read RFC 8187.
func offer(name string) string {
	var plain, coded strings.Builder
	same := true
	for _, r := range name {
		if r < ' ' || r > '~' || strings.ContainsRune(`"\%`, r) {
			plain.WriteByte('_')
			same = false
		} else {
			plain.WriteRune(r)
		}
	}
	for _, c := range []byte(name) {
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$&+-.^_`|~", c) >= 0 {
			coded.WriteByte(c)
		} else {
			fmt.Fprintf(&coded, "%%%02X", c)
		}
	}
	if same {
		return `attachment; filename="` + name + `"`
	}
	return `attachment; filename="` + plain.String() + `"; filename*=UTF-8''` + coded.String()
}

// intake is a file on its way in: counted, hashed, and its beginning noted.
type intake struct {
	file  io.Reader
	form  *form
	most  int64
	over  *problem // of a file that is longer
	bytes int64
	hash  hash.Hash
	first []byte // at most sniffed bytes
	err   error  // why it ended before its time; not the storage's fault
}

func newIntake(file io.Reader, f *form, most int64, over *problem) *intake {
	return &intake{file: file, form: f, most: most, over: over, hash: sha256.New()}
}

func (in *intake) Read(p []byte) (int, error) {
	n, err := in.file.Read(p)
	in.bytes += int64(n)
	in.hash.Write(p[:n])
	in.first = append(in.first, p[:min(n, sniffed-len(in.first))]...)
	switch _, beyond := errors.AsType[*http.MaxBytesError](err); {
	case in.bytes > in.most || beyond:
		in.err = in.over
	case err != nil && err != io.EOF:
		in.err = in.form.broken(err)
	}
	if in.err != nil {
		return 0, in.err
	}
	return n, err
}

func (in *intake) checksum() string { return hex.EncodeToString(in.hash.Sum(nil)) }

// mediaTypes are the kinds of files that a file may call itself by. What is none of them may be anything.
var mediaTypes = []string{"image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp", "application/pdf", "application/zip", "application/x-gzip",
	"audio/mpeg", "audio/wave", "application/ogg", "video/mp4", "video/webm", "text/plain"}

// media is the kind of the file, by what it is and not by what it is called (https://mimesniff.spec.whatwg.org).
func (in *intake) media() string {
	kind, _, _ := strings.Cut(http.DetectContentType(in.first), ";")
	if slices.Contains(mediaTypes, kind) {
		return kind
	}
	return "application/octet-stream"
}

// byteRange is the part of size bytes that a GET asks for (RFC 9110, section 14). Where it asks for several,
// or only if a version is still the present one and it is not, or in words that nobody knows, that is all.
func byteRange(r *http.Request, tag string, size int64) (offset, n int64, partly bool, err error) {
	text, found := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
	since := r.Header.Get("If-Range")
	first, last, dash := strings.Cut(strings.TrimSpace(text), "-")
	if !found || !dash || size == 0 || r.Method != http.MethodGet || since != "" && since != tag || !isDigits(first) || !isDigits(last) || first+last == "" {
		return 0, size, false, nil
	}
	from, to := clipped(first, size), clipped(last, size-1)
	switch {
	case first == "": // the last so many
		from, to = size-clipped(last, size), size-1
	case last == "":
		to = size - 1
	}
	switch {
	case from >= size:
		return 0, 0, false, newProblem("range_not_satisfiable", "").with("Content-Range", fmt.Sprintf("bytes */%d", size))
	case to < from:
		return 0, size, false, nil
	}
	return from, to - from + 1, true, nil
}

func isDigits(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < '0' || r > '9' })
}

// clipped is a number in digits, or most where it is larger.
func clipped(digits string, most int64) int64 {
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > most {
		return most
	}
	return n
}
