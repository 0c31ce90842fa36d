package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"unicode/utf8"
)

// A problem is an error that a client may see, in the form of RFC 9457. Every other error is
// logged and answered as "internal" with nothing of it in the answer.
type problem struct {
	Type      string       `json:"type"` // a path that explains the code: /problems/<code>
	Title     string       `json:"title"`
	Status    int          `json:"status"`
	Detail    string       `json:"detail,omitempty"`
	Instance  string       `json:"instance,omitempty"` // path of the request
	Code      string       `json:"code"`
	RequestID string       `json:"requestId,omitempty"`
	Errors    []fieldError `json:"errors,omitempty"`

	header http.Header // sent with the problem: Retry-After, ETag, Allow …
}

const (
	maxEcho   = 64 // characters of a client's own text that an error repeats
	maxErrors = 50 // fields or parameters that one problem names
)

// A fieldError says what is wrong with one field or parameter.
type fieldError struct {
	Field   string `json:"field"` // JSON path (labels[2]) or parameter name
	Code    string `json:"code"`
	Message string `json:"message"` // tells how to fix it
}

func (p *problem) Error() string { return p.Code + ": " + p.Detail }

// problemCodes is every code the API answers, with its status and what to do about it.
// Served at /problems/<code>, and the API description lists the same.
var problemCodes = map[string]struct {
	status int
	title  string
	help   string
}{
	"malformed_json":         {400, "Malformed JSON", "Send one JSON value in UTF-8, without duplicate keys, NUL, lone surrogates or text after it, nested at most 32 deep."},
	"bad_parameter":          {400, "Bad parameter", "Correct the query or path parameters named in errors."},
	"bad_request":            {400, "Bad request", "The request itself is not one this server can read."},
	"unauthenticated":        {401, "Not signed in", "Send Authorization: Bearer with an access token that has not expired; refresh it or sign in again."},
	"invalid_credentials":    {401, "Wrong email or password", "Check both; the answer is the same for an unknown or deactivated account."},
	"totp_required":          {401, "Second factor needed", "Send the code that your authenticator shows, or a recovery code, in totp."},
	"invalid_refresh_token":  {401, "Refresh token not valid", "Sign in again. A token used twice ends its session."},
	"wrong_password":         {403, "Wrong password", "Send your present password in currentPassword."},
	"invalid_token":          {403, "Token not valid", "It is used up, older than an hour, or replaced by a newer one; ask for another mail."},
	"insufficient_scope":     {403, "Not within the token's scopes", "Make an API token with the scope that this needs: write to change anything, admin for what is an admin's."},
	"session_required":       {403, "Not with an API token", "Sign in: passwords, second factors, sessions, tokens and the account itself are for people."},
	"forbidden":              {403, "Not allowed", "Your role does not allow this; ask an owner or admin of the project."},
	"https_required":         {403, "HTTPS required", "Use the https address. If you did, the operator's proxy must be named in TRUSTED_PROXIES and send X-Forwarded-Proto."},
	"cross_origin":           {403, "Request of another site", "A page of another origin sent this. Pages may call the API from origins that the operator names in CORS_ORIGINS."},
	"registration_closed":    {403, "Registration is closed", "Ask to be invited, or ask the operator to open registration."},
	"not_found":              {404, "Not found", "There is nothing here, or nothing that you may see."},
	"method_not_allowed":     {405, "Method not allowed", "Use one of the methods in the Allow header."},
	"email_taken":            {409, "Email already registered", "Sign in, or reset the password."},
	"totp_on":                {409, "Second factor is on already", "Turn it off first, if you want to start again with another authenticator."},
	"totp_not_begun":         {409, "Second factor not begun", "Ask for a secret first: POST /api/v1/me/totp."},
	"too_many_tokens":        {409, "Too many API tokens", "Delete one that is not used any more."},
	"too_many_webhooks":      {409, "Too many webhooks", "A project has at most 20; delete one that is not needed any more."},
	"webhook_off":            {409, "Webhook off", "Turn it on first: PATCH it with active true."},
	"key_taken":              {409, "Project key taken", "Choose another key, or leave it out to have one derived from the name."},
	"already_member":         {409, "Already a member", "Change the member's role instead."},
	"last_owner":             {409, "Last owner", "Make somebody else an owner first: a project always has one."},
	"last_admin":             {409, "Last admin", "Make somebody else an admin first: the installation always has an active one."},
	"project_not_active":     {409, "Project not active", "The project is archived or completed, for reading only; set its status to active first."},
	"blocker_cycle":          {409, "Blocker cycle", "That task already waits for this one, directly or through others."},
	"job_not_waiting":        {409, "Job not waiting", "Only a dead or delayed job can be retried, and not while another with the same unique key lives."},
	"idempotency_key_in_use": {409, "Request still running", "The first request with this Idempotency-Key has no answer yet; repeat it after the time in Retry-After."},
	"version_mismatch":       {412, "Changed meanwhile", "Read the resource again (the ETag header has its present version) and repeat the change if it still makes sense."},
	"body_too_large":         {413, "Body too large", "Send less at once."},
	"file_too_large":         {413, "File too large", "This installation takes smaller files only; its operator sets the limit in UPLOAD_MAX_BYTES."},
	"quota_exceeded":         {413, "No room in the project", "The attachments of the project would take more than it may keep. Delete some, or ask the operator for a higher STORAGE_QUOTA_BYTES."},
	"unsupported_media":      {415, "Unsupported media type", "Send Content-Type: application/json (PATCH also takes application/merge-patch+json) and no Content-Encoding."},
	"range_not_satisfiable":  {416, "Nothing in that range", "Ask for bytes that the file has; Content-Range tells how many these are."},
	"validation_failed":      {422, "Validation failed", "Correct the fields named in errors."},
	"mail_off":               {501, "No mail here", "This installation sends no mail. Its operator can set SMTP_URL, or a password by: taskflow admin reset-password."},
	"idempotency_key_reused": {422, "Idempotency-Key used before", "Another request had this key in the last 24 hours; make a new one for each request that is not a repetition."},
	"rate_limited":           {429, "Too many requests", "Wait for the time in Retry-After; RateLimit tells how many requests are left."},
	"unavailable":            {503, "Temporarily unavailable", "Try again after the time in Retry-After. After a change that was under way, look first: it may have been made."},
	"bad_gateway":            {502, "No answer from the service", "The proxy in front could not reach a process, or that broke off. Try again; after a change that was under way, look first: it may have been made."},
	"gateway_timeout":        {504, "The service took too long", "The proxy in front had no answer in time. Try again; after a change that was under way, look first: it may have been made."},
	"storage_full":           {507, "Storage full", "The installation has no room for files left. Nothing was lost; tell its operator."},
	"too_many_uploads":       {429, "Too many uploads", "Wait for one to end: one user has at most 6 at a time on one process."},
	"too_many_streams":       {429, "Too many streams", "Close one that is not read any more: one user has at most 20 at a time on one process."},
	"internal":               {500, "Internal error", "This is our fault; the request id helps to find it in the log."},
}

// newProblem makes the problem of a known code; an empty detail means the code's own advice.
func newProblem(code, detail string, errs ...fieldError) *problem {
	c := problemCodes[code]
	if detail == "" {
		detail = c.help
	}
	return &problem{
		Type: "/problems/" + code, Title: c.title, Status: c.status,
		Detail: detail, Code: code, Errors: errs,
	}
}

// with adds a header to the answer that carries the problem.
func (p *problem) with(name, value string) *problem {
	if p.header == nil {
		p.header = http.Header{}
	}
	p.header.Set(name, value)
	return p
}

// invalid is the problem of a body whose fields break rules.
func invalid(errs ...fieldError) *problem {
	errs = errs[:min(len(errs), maxErrors)]
	return newProblem("validation_failed", detailOf(errs), errs...)
}

// badParameter is the problem of query or path parameters that break rules.
func badParameter(errs ...fieldError) *problem {
	errs = errs[:min(len(errs), maxErrors)]
	return newProblem("bad_parameter", detailOf(errs), errs...)
}

// detailOf puts field errors into one sentence, for people who read only that.
func detailOf(errs []fieldError) string {
	var parts []string
	for _, e := range errs {
		parts = append(parts, e.Field+" "+e.Message)
	}
	return strings.Join(parts, "; ")
}

// printable is a client's text made fit to be shown or kept: its first characters, with U+FFFD for
// control characters and for bytes that are not UTF-8.
func printable(s string, most int) string {
	var out strings.Builder
	n := 0
	for _, r := range s {
		if n++; n > most {
			return out.String() + "…"
		}
		if isControl(r) {
			r = utf8.RuneError
		}
		out.WriteRune(r)
	}
	return out.String()
}

// clip cuts a text to a number of bytes, at a whole character, and makes it valid UTF-8.
func clip(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "")
}

func isControl(r rune) bool { return r < 0x20 || 0x7f <= r && r < 0xa0 }

// send writes the problem as the answer.
func (p *problem) send(w http.ResponseWriter) {
	body, err := json.Marshal(p)
	if err != nil { // strings and numbers only: cannot happen
		panic(err)
	}
	for name, values := range p.header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	w.Write(append(body, '\n'))
}
