package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	violations "github.com/pb33f/libopenapi-validator/errors"
	"github.com/pb33f/libopenapi-validator/responses"
	"github.com/pb33f/libopenapi-validator/schema_validation"
	"github.com/pb33f/libopenapi/datamodel/high/base"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"
	"github.com/pb33f/libopenapi/orderedmap"
)

const (
	description  = "../openapi.yaml"
	leastTraffic = 200 // exchanges that a recording of the service's tests has at least
)

// exchange is one line of the recording: a request of the service's own tests, and its answer.
type exchange struct {
	Method         string      `json:"method"`
	URL            string      `json:"url"` // path and query
	RequestHeader  http.Header `json:"requestHeader"`
	RequestBody    string      `json:"requestBody"`
	Status         int         `json:"status"`
	ResponseHeader http.Header `json:"responseHeader"`
	ResponseBody   string      `json:"responseBody"`
}

// TestEveryRecordedAnswerIsAsDescribed compares what the service's own tests sent and got with
// openapi.yaml: every answer, and every request that the service took.
func TestEveryRecordedAnswerIsAsDescribed(t *testing.T) {
	c := newContract(t)
	name := os.Getenv("TASKFLOW_EXCHANGES")
	if name == "" {
		name = "../.exchanges.jsonl"
	}
	file, err := os.Open(name)
	if err != nil {
		t.Fatalf("%v; make test at the root records the exchanges", err)
	}
	defer file.Close()

	lines := json.NewDecoder(bufio.NewReaderSize(file, 1<<20))
	count := 0
	for ; ; count++ {
		var x exchange
		if err := lines.Decode(&x); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%s: exchange %d: %v", name, count+1, err)
		}
		if err := c.check(x); err != nil {
			t.Fatalf("%s: exchange %d: %v", name, count+1, err)
		}
	}
	if count < leastTraffic {
		t.Errorf("only %d exchanges in %s, want at least %d", count, name, leastTraffic)
	}
	for _, key := range c.order {
		v := c.found[key]
		t.Errorf("%s\n\t%s\n\tin %d of %d exchanges, first %s", v.where, v.what, v.times, count, v.first)
	}
	for _, op := range c.operations {
		if !op.worked {
			t.Errorf("%s: no exchange shows it answering 2xx", op)
		}
	}
	t.Logf("%d exchanges, %d of them outside the description", count, c.outside)
}

// operation is one method of one path of the description.
type operation struct {
	method, path string
	item         *v3.PathItem
	responses    *v3.Responses
	query        []string // names of its query parameters
	worked       bool     // an exchange shows a 2xx
}

func (op *operation) String() string { return op.method + " " + op.path }

// violation is a way in which the service and its description differ.
type violation struct {
	where, what string
	first       string // the request that showed it
	times       int
}

// contract is the description, ready to be compared with exchanges, and what that has found.
type contract struct {
	model      *v3.Document
	validator  validator.Validator
	problems   schema_validation.SchemaValidator // for answers of no operation
	options    []config.Option
	mux        *http.ServeMux // finds an operation as the service finds its route
	operations []*operation
	byPattern  map[string]*operation
	outside    int // exchanges of no operation
	found      map[string]*violation
	order      []string // keys of found
}

func newContract(t *testing.T) *contract {
	t.Helper()
	text, err := os.ReadFile(description)
	if err != nil {
		t.Fatal(err)
	}
	document, err := libopenapi.NewDocument(text)
	if err != nil {
		t.Fatal(err)
	}
	model, err := document.BuildV3Model()
	if err != nil {
		t.Fatal(err)
	}
	c := &contract{
		model: &model.Model, mux: http.NewServeMux(), byPattern: map[string]*operation{}, found: map[string]*violation{},
		options: []config.Option{config.WithFormatAssertions()},
	}
	c.problems = schema_validation.NewSchemaValidator(c.options...)
	var errs []error
	if c.validator, errs = validator.NewValidator(document, c.options...); len(errs) > 0 {
		t.Fatal(errors.Join(errs...))
	}
	if _, errs := c.validator.ValidateDocument(); len(errs) > 0 {
		t.Fatalf("%s is not OpenAPI 3.1: %v", description, errs[0])
	}
	for path, item := range model.Model.Paths.PathItems.FromOldest() {
		for method, described := range item.GetOperations().FromOldest() {
			op := &operation{method: strings.ToUpper(method), path: path, item: item, responses: described.Responses}
			for _, p := range slices.Concat(item.Parameters, described.Parameters) {
				if p.In == "query" {
					op.query = append(op.query, p.Name)
				}
			}
			c.operations = append(c.operations, op)
			c.byPattern[op.String()] = op
			c.mux.Handle(op.String(), http.NotFoundHandler())
		}
	}
	return c
}

// check compares one exchange with the description. An error is one of the recording.
func (c *contract) check(x exchange) error {
	request, err := http.NewRequest(x.Method, "http://taskflow.test"+x.URL, strings.NewReader(x.RequestBody))
	if err != nil {
		return err
	}
	request.Header = x.RequestHeader
	op := c.operation(request)
	if op == nil {
		c.outside++
		c.checkUnrouted(x)
		return nil
	}
	where := fmt.Sprintf("%s answers %d", op, x.Status)
	response := &http.Response{StatusCode: x.Status, Header: x.ResponseHeader, Body: io.NopCloser(strings.NewReader(x.ResponseBody))}
	if x.Method == http.MethodHead {
		c.checkHead(x, op, where, request, response)
		return nil
	}
	_, errs := c.validator.GetResponseBodyValidator().ValidateResponseBodyWithPathItem(request, response, op.item, op.path)
	c.report(x, where, errs)
	c.checkProblem(x, op, where)
	if described := op.responses.Codes.GetOrZero(strconv.Itoa(x.Status)); described != nil {
		switch content := orderedmap.Len(described.Content) > 0; {
		case content && x.ResponseBody == "" && described.Content.GetOrZero("*/*") == nil: // the validator lets that pass; a file may be empty
			c.add(x, where, "has no body")
		case !content && x.ResponseBody != "":
			c.add(x, where, "has a body")
		}
	}
	if x.Status >= 200 && x.Status <= 299 {
		op.worked = true
		_, errs := c.validator.ValidateHttpRequestSyncWithPathItem(request, op.item, op.path)
		c.report(x, op.String()+" takes a request that is not as described", errs)
		for name := range request.URL.Query() {
			if !slices.Contains(op.query, name) {
				c.add(x, op.String()+" takes a request that is not as described", "query parameter "+name+" is not described")
			}
		}
	}
	return nil
}

// operation is the one that a request is for; HEAD is GET without the body. nil where there is none.
func (c *contract) operation(request *http.Request) *operation {
	clean := path.Clean(request.URL.Path)
	if request.URL.Path != clean { // the mux would redirect, the service does not
		return nil
	}
	_, pattern := c.mux.Handler(request)
	return c.byPattern[pattern]
}

// checkUnrouted checks what the service answers where it has nothing: a problem of the usual form.
// The pages for browsers answer what they like.
func (c *contract) checkUnrouted(x exchange) {
	if x.Status < 400 {
		return
	}
	where := fmt.Sprintf("%s outside the description answers %d", x.Method, x.Status)
	if media := x.ResponseHeader.Get("Content-Type"); media != "application/problem+json" {
		c.add(x, where, fmt.Sprintf("has the Content-Type %q", media))
		return
	}
	if x.Status == http.StatusMethodNotAllowed && x.ResponseHeader.Get("Allow") == "" {
		c.add(x, where, "has no Allow")
	}
	if x.Method != http.MethodHead {
		_, errs := c.problems.ValidateSchemaString(c.schema("Problem"), x.ResponseBody)
		c.report(x, where, errs)
	}
}

func (c *contract) schema(name string) *base.Schema {
	return c.model.Components.Schemas.GetOrZero(name).Schema()
}

// checkHead checks an answer without a body against what GET describes.
func (c *contract) checkHead(x exchange, op *operation, where string, request *http.Request, response *http.Response) {
	described := op.responses.Codes.GetOrZero(strconv.Itoa(x.Status))
	if described == nil {
		c.add(x, where, "the status is not described (HEAD)")
		return
	}
	_, errs := responses.ValidateResponseHeaders(request, response, described.Headers, op.path, strconv.Itoa(x.Status), c.options...)
	c.report(x, where, errs)
	if x.ResponseBody != "" {
		c.add(x, where, "has a body (HEAD)")
	}
}

// checkProblem checks that a problem's code is one of those for which its response has an example,
// and that it tells the status that was sent.
func (c *contract) checkProblem(x exchange, op *operation, where string) {
	var p struct {
		Code   string `json:"code"`
		Status int    `json:"status"`
	}
	described := op.responses.Codes.GetOrZero(strconv.Itoa(x.Status))
	if x.ResponseHeader.Get("Content-Type") != "application/problem+json" || described == nil || described.Content == nil || json.Unmarshal([]byte(x.ResponseBody), &p) != nil {
		return
	}
	if p.Status != x.Status {
		c.add(x, where, fmt.Sprintf("the problem says status %d", p.Status))
	}
	media := described.Content.GetOrZero("application/problem+json")
	if media == nil {
		return // found by the validator
	}
	if media.Examples.GetOrZero(p.Code) == nil {
		c.add(x, where, "the code "+p.Code+" is not among the examples of the response")
	}
}

// report adds what the validator found, the innermost reasons where it gives them.
func (c *contract) report(x exchange, where string, errs []*violations.ValidationError) {
	for _, e := range errs {
		if len(e.SchemaValidationErrors) == 0 {
			c.add(x, where, e.Message+": "+e.Reason)
		}
		for _, s := range e.SchemaValidationErrors {
			at := strings.TrimSpace(e.ParameterName + " " + s.FieldPath)
			cause := s.KeywordLocation // the reason quotes the value
			if namesFields.MatchString(s.KeywordLocation) {
				names := strings.Fields(strings.ReplaceAll(s.Reason, ",", " ")) // in any order
				slices.Sort(names)
				cause = strings.Join(names, " ")
			}
			c.addAs(x, where, at+" "+s.Reason, where+at+cause)
		}
	}
}

var (
	// namesFields are the rules whose reason has the names of fields in it and no values.
	namesFields = regexp.MustCompile(`/(required|additionalProperties)$`)
	number      = regexp.MustCompile(`[0-9]+`)
)

func (c *contract) add(x exchange, where, what string) { c.addAs(x, where, what, where+what) }

// addAs notes a violation; one with the same key but for numbers counts as the same.
func (c *contract) addAs(x exchange, where, what, key string) {
	key = number.ReplaceAllString(key, "0")
	v := c.found[key]
	if v == nil {
		v = &violation{where: where, what: what, first: fmt.Sprintf("%s %.200s %.300s → %d %.400s", x.Method, x.URL, x.RequestBody, x.Status, x.ResponseBody)}
		c.found[key] = v
		c.order = append(c.order, key)
	}
	v.times++
}

// A check that finds nothing must be one that would find something.
func TestContractNoticesWhatIsNotAsDescribed(t *testing.T) {
	good := exchange{
		Method: "POST", URL: "/api/v1/auth/refresh",
		RequestHeader: http.Header{"Content-Type": {"application/json"}}, RequestBody: `{"refreshToken":"a"}`,
		Status: 200, ResponseHeader: http.Header{"Content-Type": {"application/json"}, "X-Request-Id": {"a-1"}},
		ResponseBody: `{"accessToken":"a","refreshToken":"b","expiresIn":900,"tokenType":"Bearer"}`,
	}
	me := exchange{
		Method: "GET", URL: "/api/v1/me", RequestHeader: http.Header{"Authorization": {"Bearer a"}}, Status: 200,
		ResponseHeader: http.Header{"Content-Type": {"application/json"}, "X-Request-Id": {"a-1"}, "Etag": {`"2"`}},
		ResponseBody: `{"id":"0199a3f0-5d1c-7b2e-9c41-3f6a8d27e510","email":"ada@example.org","firstName":"Ada","lastName":"Lovelace",` +
			`"avatarUrl":null,"timezone":"UTC","locale":"en","role":"admin","isActive":true,` +
			`"createdAt":"2025-10-02T08:01:02.748Z","updatedAt":"2025-10-02T08:01:02.748Z","version":2,"emailVerified":false,"totpEnabled":false}`,
	}
	lost := exchange{
		Method: "GET", URL: "/api/v1/projects/x", RequestHeader: http.Header{}, Status: 404,
		ResponseHeader: http.Header{"Content-Type": {"application/problem+json"}, "X-Request-Id": {"a-1"}},
		ResponseBody:   `{"type":"/problems/not_found","title":"t","status":404,"detail":"d","instance":"/x","code":"not_found","requestId":"a-1"}`,
	}
	c := newContract(t)
	edit := func(x exchange, change func(*exchange)) exchange {
		x.RequestHeader, x.ResponseHeader = x.RequestHeader.Clone(), x.ResponseHeader.Clone()
		change(&x)
		return x
	}
	body := func(x exchange, old, new string) exchange {
		return edit(x, func(x *exchange) { x.ResponseBody = strings.Replace(x.ResponseBody, old, new, 1) })
	}
	for _, test := range []struct {
		name string
		x    exchange
		want string // in what is found; empty for nothing
	}{
		{"nothing", good, ""},
		{"nothing with ETag", me, ""},
		{"nothing in a problem", lost, ""},
		{"a field too much", body(good, `{"a`, `{"user":null,"a`), "user"},
		{"a field too little", body(good, `,"tokenType":"Bearer"`, ``), "tokenType"},
		{"another type", body(good, `900`, `"900"`), "expiresIn"},
		{"a value outside the enum", body(me, `"admin"`, `"king"`), "role"},
		{"null where there is always a value", body(me, `"UTC"`, `null`), "timezone"},
		{"an id that is no UUID", body(me, `0199a3f0-`, ``), "uuid"},
		{"a time without milliseconds", body(me, `.748Z`, `Z`), "createdAt"},
		{"a time that there is not", body(me, `10-02T08`, `13-02T28`), "createdAt"},
		{"an address that is none", body(me, `ada@`, ``), "email"},
		{"no JSON", body(me, `{`, `[`), "body"},
		{"no body", edit(me, func(x *exchange) { x.ResponseBody = "" }), "has no body"},
		{"another media type", edit(me, func(x *exchange) { x.ResponseHeader.Set("Content-Type", "text/html") }), "text/html"},
		{"a header too little", edit(me, func(x *exchange) { x.ResponseHeader.Del("Etag") }), "ETag"},
		{"a weak ETag", edit(me, func(x *exchange) { x.ResponseHeader.Set("ETag", `W/"2"`) }), "etag"},
		{"a status that is not described", edit(me, func(x *exchange) { x.Status = 202 }), "202"},
		{"HEAD without the headers of GET", edit(me, func(x *exchange) { x.Method, x.ResponseBody = "HEAD", ""; x.ResponseHeader.Del("Etag") }), "ETag"},
		{"a body where there is none", edit(me, func(x *exchange) { x.Status = 304 }), "has a body"},
		{"a code of another status", body(lost, `not_found","r`, `forbidden","r`), "forbidden"},
		{"a code that nobody knows", body(lost, `not_found","r`, `lost","r`), "code"},
		{"a problem with another status", body(lost, `404`, `400`), "400"},
		{"a request without its token", edit(me, func(x *exchange) { x.RequestHeader.Del("Authorization") }), "Authorization"},
		{"a request with an unknown parameter", edit(me, func(x *exchange) { x.URL += "?full=true" }), "full"},
		{"a request with an unknown field", edit(good, func(x *exchange) { x.RequestBody = `{"refreshToken":"a","b":1}` }), "'b'"},
		{"a patch with an unknown field", edit(me, func(x *exchange) {
			x.Method, x.RequestBody = "PATCH", `{"b":1}`
			x.RequestHeader.Set("Content-Type", "application/merge-patch+json")
		}), "'b'"},
		{"a request without a field", edit(good, func(x *exchange) { x.RequestBody = `{}` }), "refreshToken"},
		{"a parameter out of range", exchange{Method: "GET", URL: "/api/v1/me/sessions?limit=101", RequestHeader: me.RequestHeader, Status: 200,
			ResponseHeader: me.ResponseHeader, ResponseBody: `{"items":[],"next":null}`}, "limit"},
		{"an unknown path without a problem", exchange{Method: "GET", URL: "/nowhere", Status: 404, ResponseBody: "404 page not found",
			ResponseHeader: http.Header{"Content-Type": {"text/plain"}}}, "text/plain"},
		{"an unknown path with half a problem", edit(lost, func(x *exchange) { x.URL, x.ResponseBody = "/nowhere", `{"code":"not_found"}` }), "requestId"},
		{"a refused method without Allow", edit(lost, func(x *exchange) { x.Method, x.Status = "DELETE", 405; x.URL = "/api/v1/users" }), "Allow"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.found, c.order = map[string]*violation{}, nil
			if err := c.check(test.x); err != nil {
				t.Fatal(err)
			}
			var found []string
			for _, key := range c.order {
				found = append(found, c.found[key].where+": "+c.found[key].what)
			}
			got := strings.Join(found, "\n")
			if test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("got %q, want %q in it", got, test.want)
			}
		})
	}
}
