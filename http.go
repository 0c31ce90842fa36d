package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	maxBody         = 1 << 20  // bytes of a JSON body
	maxStrangerBody = 16 << 10 // bytes of a JSON body from somebody who has not signed in
	maxSearch       = 200      // characters of a search text
	defaultLimit    = 50       // rows of a list page
	maxLimit        = 100
)

// handlerFunc is a handler that leaves its errors to one place.
type handlerFunc func(w http.ResponseWriter, r *http.Request) error

// recorder notes what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
	route  string        // pattern that matched
	seen   *routeTraffic // its; nil: none matched
	user   uuid
	timing *timing // nil: not asked for
	claims claims  // of the token, where the handler looks up the rest
}

// caller is who asked, "" for a stranger.
func (rec *recorder) caller() string {
	if rec.user == (uuid{}) {
		return ""
	}
	return rec.user.String()
}

func (rec *recorder) WriteHeader(status int) {
	if rec.status == 0 {
		rec.status = status
		if rec.timing != nil {
			rec.Header().Set("Server-Timing", rec.timing.String())
		}
	}
	rec.ResponseWriter.WriteHeader(status)
}

func (rec *recorder) Write(b []byte) (int, error) {
	if rec.status == 0 {
		rec.WriteHeader(http.StatusOK)
	}
	n, err := rec.ResponseWriter.Write(b)
	rec.bytes += int64(n)
	return n, err
}

// recorderOf is the recorder that front has put around every answer.
func recorderOf(w http.ResponseWriter) *recorder {
	if rec, ok := w.(*recorder); ok {
		return rec
	}
	return &recorder{ResponseWriter: w}
}

// Unwrap lets http.ResponseController reach the connection.
func (rec *recorder) Unwrap() http.ResponseWriter { return rec.ResponseWriter }

// errPanicked is a handler's panic, of which everybody who should know was told.
var errPanicked = errors.New("panic")

// fail answers an error: a problem as it is, anything else as one that tells nothing, after logging it.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if rec, ok := w.(*recorder); ok && rec.status != 0 {
		s.log.Warn("answer cut short", "error", err, "route", r.Pattern, "requestId", requestOf(r.Context()), "traceId", traceOf(r.Context()).traceID())
		panic(http.ErrAbortHandler) // the answer has begun; the connection's end is all the client can be told
	}
	p, ok := errors.AsType[*problem](err)
	_, busy := errors.AsType[*unavailableError](err) // a statement that was cancelled for its client, too
	storage, _ := errors.AsType[*storageError](err)
	told := err == errPanicked
	switch {
	case ok:
		told = p.Status < 500 || p.Status == http.StatusNotImplemented // which is how the installation is set up
	case (busy || errors.Is(err, context.Canceled)) && r.Context().Err() != nil: // the client has gone
		p, told = newProblem("unavailable", ""), true
	default:
		level, code := slog.LevelError, "internal"
		switch {
		case storage != nil && storage.full:
			code = "storage_full"
		case busy || storage != nil || errors.Is(err, context.DeadlineExceeded):
			level, code = slog.LevelWarn, "unavailable"
		}
		s.log.Log(r.Context(), level, "request failed", "error", err, "route", r.Pattern, "requestId", requestOf(r.Context()), "traceId", traceOf(r.Context()).traceID())
		p = newProblem(code, "")
	}
	if !told {
		s.report(w, r, p, err)
	}
	answer := *p
	answer.Instance, answer.RequestID = r.URL.EscapedPath(), requestOf(r.Context())
	if p.Code == "unavailable" {
		answer.with("Retry-After", "1")
	}
	if p.Status == http.StatusUnauthorized {
		answer.with("WWW-Authenticate", `Bearer realm="taskflow"`)
	}
	answer.send(w)
}

// report tells of an answer that is the service's fault.
func (s *server) report(w http.ResponseWriter, r *http.Request, p *problem, err error) {
	rec, level := recorderOf(w), "error"
	if p.Status != http.StatusInternalServerError {
		level = "warning"
	}
	s.reports.tell(report{level: level, kind: errorType(err), text: err.Error(), by: "http", place: rec.route, user: rec.caller(), trace: traceOf(r.Context()),
		tags: map[string]string{"requestId": requestOf(r.Context()), "status": strconv.Itoa(p.Status), "code": p.Code}})
}

// invalidator is a request body that can check itself.
type invalidator interface{ invalid() []fieldError }

// decode reads the body into a T by unmarshalStrict and asks it what is wrong with its fields.
func decode[T invalidator](w http.ResponseWriter, r *http.Request) (T, error) {
	var body T
	if err := checkMedia(r); err != nil {
		return body, err
	}
	data, err := readBody(r)
	if err != nil {
		return body, err
	}
	if err := unmarshalStrict(data, &body); err != nil {
		return body, err
	}
	if errs := body.invalid(); len(errs) > 0 {
		return body, invalid(errs...)
	}
	return body, nil
}

// readBody reads a body whole; guard has limited it.
func readBody(r *http.Request) ([]byte, error) {
	data, err := io.ReadAll(r.Body)
	if beyond, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLarge(beyond.Limit)
	}
	if err != nil {
		return nil, newProblem("bad_request", "The body could not be read to its end.")
	}
	return data, nil
}

func tooLarge(most int64) *problem {
	return newProblem("body_too_large", fmt.Sprintf("The body must be at most %d bytes.", most))
}

// checkMedia refuses a body that does not say that it is JSON, or is encoded on top of it.
func checkMedia(r *http.Request) error {
	if err := checkEncoding(r); err != nil {
		return err
	}
	media, params, err := mime.ParseMediaType(strings.Join(r.Header.Values("Content-Type"), ","))
	json := media == "application/json" || media == "application/merge-patch+json" && r.Method == http.MethodPatch
	if charset := params["charset"]; err != nil || !json || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return newProblem("unsupported_media", "")
	}
	return nil
}

// checkEncoding refuses a body that is compressed or the like.
func checkEncoding(r *http.Request) error {
	if enc := strings.Join(r.Header.Values("Content-Encoding"), ","); enc != "" && !strings.EqualFold(enc, "identity") {
		return newProblem("unsupported_media", "").with("Accept-Encoding", "identity")
	}
	return nil
}

// content is an answer ready to be sent.
type content struct {
	tag  string // ETag; "" for none
	link string // Link; "" for none
	body []byte // JSON
}

func (c content) write(w http.ResponseWriter) {
	if c.link != "" {
		w.Header().Set("Link", c.link)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	w.Write(c.body)
}

// encode is a value as the JSON of an answer.
func encode(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return append(body, '\n'), nil
}

// writeJSON encodes before it writes, so that a failure can still become a problem.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	body, err := encode(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(body)
	return nil
}

// writeVersioned writes a single resource with its ETag, or 304 where the client already has it.
func writeVersioned(w http.ResponseWriter, r *http.Request, status int, version int64, v any) error {
	if notModified(w, r, entityTag(version)) {
		return nil
	}
	return writeJSON(w, status, v)
}

// notModified sets a resource's ETag, and answers 304 where the client already has that version.
func notModified(w http.ResponseWriter, r *http.Request, tag string) bool {
	w.Header().Set("ETag", tag)
	w.Header().Set("Cache-Control", "private, no-cache")
	if r.Method != http.MethodGet && r.Method != http.MethodHead || len(r.Header["If-None-Match"]) == 0 {
		return false
	}
	tags := entityTags(r.Header["If-None-Match"])
	if !slices.Contains(tags, tag) && !slices.Contains(tags, "*") {
		return false
	}
	w.WriteHeader(http.StatusNotModified)
	return true
}

// writeCreated answers a POST that made something.
func writeCreated(w http.ResponseWriter, r *http.Request, location string, version int64, v any) error {
	w.Header().Set("Location", location)
	return writeVersioned(w, r, http.StatusCreated, version, v)
}

// entityTags splits the lists of If-None-Match (RFC 9110, section 13.1.2). Weakness is dropped, as
// it compares weakly.
func entityTags(lists []string) []string {
	var tags []string
	for tag := range strings.SplitSeq(strings.Join(lists, ","), ",") {
		tags = append(tags, strings.TrimPrefix(strings.TrimSpace(tag), "W/"))
	}
	return tags
}

// ifMatch is the versions that If-Match accepts; nil where any will do. Tags this server never
// made, weak ones among them, are versions that never match.
func ifMatch(r *http.Request) []int64 {
	lists := r.Header.Values("If-Match")
	if len(lists) == 0 || len(lists) == 1 && strings.TrimSpace(lists[0]) == "*" {
		return nil
	}
	versions := []int64{}
	for tag := range strings.SplitSeq(strings.Join(lists, ","), ",") {
		tag = strings.TrimSpace(tag)
		if n, err := strconv.ParseInt(strings.Trim(tag, `"`), 10, 64); err == nil && tag == entityTag(n) {
			versions = append(versions, n)
		}
	}
	return versions
}

// entityTag is the strong ETag of a version.
func entityTag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

// pathUUID is a path parameter that must be an id. Anything else is a thing that does not exist.
func pathUUID(r *http.Request, name string) (uuid, error) {
	id, err := parseUUID(r.PathValue(name))
	if err != nil {
		return id, newProblem("not_found", "")
	}
	return id, nil
}

// query reads the parameters of a request. Every parameter must be asked for, then done says what
// was wrong: unknown and repeated ones too.
type query struct {
	values url.Values
	errs   []fieldError
	known  []string

	unranked bool // a search finds all that matches, in the order that the caller gives it
}

func parseQuery(r *http.Request) *query {
	values, err := url.ParseQuery(r.URL.RawQuery)
	q := &query{values: values}
	if err != nil {
		q.wrong("query", "malformed", "must be name=value pairs joined by &, percent-encoded")
	}
	return q
}

func (q *query) wrong(name, code, message string) {
	q.errs = append(q.errs, fieldError{name, code, message})
}

// text is the parameter's value, "" when absent.
func (q *query) text(name string) string {
	q.known = append(q.known, name)
	list := q.values[name]
	if len(list) == 0 {
		return ""
	}
	if len(list) > 1 {
		q.wrong(name, "repeated", "must be given once")
	}
	if value := list[0]; !utf8.ValidString(value) || strings.ContainsFunc(value, isControl) {
		q.wrong(name, "invalid_text", "must be UTF-8 without control characters")
		return ""
	} else if value == "" {
		q.wrong(name, "empty", "must not be empty; leave it out instead")
	}
	return list[0]
}

// search is the parameter search, "" when absent.
func (q *query) search() string {
	value := q.text("search")
	if utf8.RuneCountInString(value) > maxSearch {
		q.wrong("search", "too_long", fmt.Sprintf("must have at most %d characters", maxSearch))
	}
	return value
}

func (q *query) oneOf(name string, choices ...string) string {
	value := q.text(name)
	if value != "" && !slices.Contains(choices, value) {
		q.wrong(name, "not_allowed", "must be one of "+strings.Join(choices, ", "))
	}
	return value
}

// listOf is a comma list, each of whose members must be one of the choices.
func (q *query) listOf(name string, choices ...string) []string {
	value := q.text(name)
	if value == "" {
		return nil
	}
	list := strings.Split(value, ",")
	for _, v := range list {
		if !slices.Contains(choices, v) {
			q.wrong(name, "not_allowed", "must be a comma list of "+strings.Join(choices, ", "))
			break
		}
	}
	return list
}

func (q *query) bool(name string) bool { return q.oneOf(name, "true", "false") == "true" }

// uuid is an id, nil when absent.
func (q *query) uuid(name string) *uuid {
	value := q.text(name)
	if value == "" {
		return nil
	}
	id, err := parseUUID(value)
	if err != nil {
		q.wrong(name, "invalid_uuid", err.Error())
		return nil
	}
	return &id
}

func (q *query) date(name string) string {
	value := q.text(name)
	if value != "" && !validDate(value) {
		q.wrong(name, "invalid_date", "must be a date such as 2026-03-01")
	}
	return value
}

func (q *query) timestamp(name string) *timestamp {
	value := q.text(name)
	if value == "" {
		return nil
	}
	at, ok := parseTimestamp(value)
	if !ok {
		q.wrong(name, "invalid_time", "must be an RFC 3339 time such as 2026-03-01T09:30:00Z")
		return nil
	}
	return &timestamp{at}
}

// parseTimestamp reads an RFC 3339 time.
func parseTimestamp(text string) (time.Time, bool) {
	at, err := time.Parse(time.RFC3339, text)
	return at, err == nil && !strings.Contains(text, ",") // Go takes a decimal comma
}

// done is the problem of everything that was wrong with the query, or nil.
func (q *query) done() error {
	for name := range q.values {
		if !slices.Contains(q.known, name) {
			q.wrong(cmp.Or(printable(name, maxEcho), "query"), "unknown_parameter", "is not a parameter of this request; it takes "+cmp.Or(strings.Join(q.known, ", "), "none"))
		}
	}
	if len(q.errs) > 0 {
		slices.SortFunc(q.errs, func(a, b fieldError) int { return strings.Compare(a.Field, b.Field) })
		return badParameter(q.errs...)
	}
	return nil
}

// page is which part of a list is asked for.
type page struct {
	limit int
	total bool
	after *cursor // nil for the first page
}

// page reads limit, cursor and total. scope names everything that decides the order and the rows
// of this list, so that a cursor of one list is not valid in another.
func (s *server) page(r *http.Request, q *query) page {
	p := page{limit: defaultLimit, total: q.bool("total")}
	if text := q.text("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxLimit || text[0] == '+' {
			q.wrong("limit", "out_of_range", fmt.Sprintf("must be a whole number from 1 to %d", maxLimit))
		}
		p.limit = n
	}
	if text := q.text("cursor"); text != "" {
		c, err := s.keys.openCursor(text, listScope(r))
		if err != nil {
			q.wrong("cursor", "invalid_cursor", "must be the next of a page of this same list; start again without it")
		}
		p.after = c
	}
	return p
}

// beforeID is the id below which a page of a list in descending order of ids begins.
func (p page) beforeID() uuid {
	if p.after != nil {
		if id, err := parseUUID(p.after.ID); err == nil {
			return id
		}
	}
	return lastUUID
}

// listScope is what a cursor is bound to: the caller, the path, and the query but for the page
// itself. The lists of documents.go are the same for every caller.
func listScope(r *http.Request) string {
	values := r.URL.Query()
	for _, name := range []string{"cursor", "limit", "total", "expand"} {
		values.Del(name)
	}
	return callerOf(r.Context()).ID.String() + " " + r.URL.Path + "?" + values.Encode()
}

// cursor is the place after which a page begins: the last row's sort key and id.
type cursor struct {
	Key string `json:"k"`
	ID  string `json:"i"`
}

// sealCursor makes a cursor that only this installation can make, for this one list.
func (k *keyring) sealCursor(c cursor, scope string) string {
	body, _ := json.Marshal(c) // strings only
	return base64.RawURLEncoding.EncodeToString(append(k.mac("cursor", scope, string(body)), body...))
}

var errCursor = errors.New("cursor not valid")

func (k *keyring) openCursor(text, scope string) (*cursor, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) < macSize || strings.ContainsAny(text, "\r\n") {
		return nil, errCursor
	}
	if !k.verify(raw[:macSize], "cursor", scope, string(raw[macSize:])) {
		return nil, errCursor
	}
	var c cursor
	if err := json.Unmarshal(raw[macSize:], &c); err != nil {
		return nil, errCursor
	}
	return &c, nil
}

// list is one page of a list, as every list route answers it.
type list[T any] struct {
	Items []T     `json:"items"`
	Next  *string `json:"next"` // cursor of the next page; null on the last
	Total *int64  `json:"total,omitempty"`
}

// writeList answers a page.
func writeList[T any](s *server, w http.ResponseWriter, r *http.Request, p page, rows []T, total *int64, place func(T) cursor) error {
	c, err := listContent(s, r, p, rows, total, place)
	if err != nil {
		return err
	}
	c.write(w)
	return nil
}

// listContent is the answer of a page. rows may have one more than the limit, which tells that there
// is a next page; place makes the cursor of a row.
func listContent[T any](s *server, r *http.Request, p page, rows []T, total *int64, place func(T) cursor) (content, error) {
	out := list[T]{Items: rows, Total: total}
	if out.Items == nil {
		out.Items = []T{}
	}
	var link string
	if len(rows) > p.limit {
		out.Items = rows[:p.limit]
		var next string
		next, link = s.nextPage(r, place(rows[p.limit-1]))
		out.Next = &next
	}
	body, err := encode(out)
	return content{link: link, body: body}, err
}

// nextPage is the cursor of the page after a place in a list, and the Link to it (RFC 8288).
func (s *server) nextPage(r *http.Request, after cursor) (next, link string) {
	next = s.keys.sealCursor(after, listScope(r))
	values := r.URL.Query()
	values.Set("cursor", next)
	return next, "<" + r.URL.EscapedPath() + "?" + values.Encode() + `>; rel="next"`
}

// countIf runs a count when the client asked for a total; lists never count otherwise.
func (s *server) countIf(ctx context.Context, wanted bool, sql string, args ...any) (*int64, error) {
	if !wanted {
		return nil, nil
	}
	n, err := queryValue[int64](ctx, s.db, sql, args...)
	return &n, err
}

// fields collects what is wrong with the fields of a body.
type fields struct{ errs []fieldError }

func (f *fields) wrong(field, code, message string) {
	f.errs = append(f.errs, fieldError{field, code, message})
}

// text checks the length, in characters, and the characters of a text. long text may have lines and tabs.
func (f *fields) text(field, value string, least, most int, long bool) {
	n := utf8.RuneCountInString(value)
	switch {
	case n < least && n == 0:
		f.wrong(field, "required", "must not be empty")
	case n < least:
		f.wrong(field, "too_short", fmt.Sprintf("must have at least %d characters", least))
	case n > most:
		f.wrong(field, "too_long", fmt.Sprintf("must have at most %d characters", most))
	case least > 0 && !strings.ContainsFunc(value, isVisible):
		f.wrong(field, "required", "must not be blank")
	case strings.ContainsFunc(value, func(r rune) bool { return isControl(r) && !(long && (r == '\n' || r == '\t' || r == '\r')) }):
		f.wrong(field, "invalid_text", "must not contain control characters")
	case !long && strings.ContainsFunc(value, turnsText):
		f.wrong(field, "invalid_text", "must not contain characters that turn the direction of what stands after them")
	}
}

// isVisible tells whether a character shows: a text of none is as good as empty.
func isVisible(r rune) bool {
	return unicode.IsGraphic(r) && !unicode.IsSpace(r) && !unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r)
}

// turnsText tells whether a character embeds, overrides or isolates a direction of writing (UAX 9):
// in a name it would have the text around show as something else.
func turnsText(r rune) bool { return 0x202a <= r && r <= 0x202e || 0x2066 <= r && r <= 0x2069 }

func (f *fields) oneOf(field, value string, choices ...string) {
	if !slices.Contains(choices, value) {
		f.wrong(field, "not_allowed", "must be one of "+strings.Join(choices, ", "))
	}
}

func (f *fields) date(field, value string) {
	if !validDate(value) {
		f.wrong(field, "invalid_date", "must be a date such as 2026-03-01")
	}
}

// validDate tells whether a text is a calendar date of the years 1000 to 9999.
func validDate(s string) bool {
	d, err := time.Parse(time.DateOnly, s)
	return err == nil && d.Year() >= 1000
}

func (f *fields) required(field string, present bool) {
	if !present {
		f.wrong(field, "required", "must be given")
	}
}
