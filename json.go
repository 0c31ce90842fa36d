package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxJSONDepth = 32  // objects and arrays within each other
	maxJSONNames = 100 // in one object; more than any request has
)

// unmarshalStrict decodes one JSON text into the struct dst points to and refuses everything that
// encoding/json would guess about: duplicate names, names of another case, unknown names, null in
// place of the body, text after the value, invalid UTF-8, lone surrogates, NUL, deep nesting.
// Errors are problems: malformed_json with the place, or validation_failed with the fields.
func unmarshalStrict(data []byte, dst any) error {
	s := jsonScanner{data: data}
	if err := s.text(reflect.TypeOf(dst).Elem()); err != nil {
		return err
	}
	if len(s.unknown) > 0 {
		return invalid(s.unknown...)
	}
	err := json.Unmarshal(data, dst)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return invalid(fieldError{wrong.Field, "wrong_type", "must be " + jsonTypeName(wrong.Type) + ", not " + printable(wrong.Value, maxEcho)})
	}
	if err != nil {
		return newProblem("malformed_json", "The body cannot be read as JSON.")
	}
	return nil
}

// jsonTypeName is what a client calls a Go type.
func jsonTypeName(t reflect.Type) string {
	t = jsonElem(t)
	if t == reflect.TypeFor[uuid]() {
		return "a UUID such as 0192f0c1-2345-7abc-8def-0123456789ab"
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64, reflect.Int32:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "an array"
	}
	return "an object"
}

// jsonScanner walks a text once, beside the type it will be decoded into, by the grammar of RFC 8259.
type jsonScanner struct {
	data    []byte
	pos     int
	unknown []fieldError // names the type does not have
}

func (s *jsonScanner) fail(format string, args ...any) error {
	return newProblem("malformed_json", fmt.Sprintf(format, args...)+fmt.Sprintf(" at byte %d.", s.pos))
}

func (s *jsonScanner) text(t reflect.Type) error {
	if !utf8.Valid(s.data) {
		return newProblem("malformed_json", "The body is not valid UTF-8.")
	}
	s.space()
	if s.pos == len(s.data) {
		return newProblem("malformed_json", "The body is empty; send a JSON object.")
	}
	if s.data[s.pos] != '{' {
		return newProblem("malformed_json", "The body must be a JSON object.")
	}
	if err := s.value(t, "", 0); err != nil {
		return err
	}
	s.space()
	if s.pos < len(s.data) {
		return s.fail("There is text after the JSON value")
	}
	return nil
}

func (s *jsonScanner) space() {
	for s.pos < len(s.data) && strings.IndexByte(" \t\r\n", s.data[s.pos]) >= 0 {
		s.pos++
	}
}

// next is the byte at the present place, 0 at the end.
func (s *jsonScanner) next() byte {
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

// value walks one value, which stands in depth others. t is the type it belongs to; nil where any
// value may stand. path leads to it, but is not made longer where t is nil: a client's own names can
// be long, and there can be as many values below them.
func (s *jsonScanner) value(t reflect.Type, path string, depth int) error {
	switch c := s.next(); {
	case (c == '{' || c == '[') && depth == maxJSONDepth:
		return s.fail("The JSON is nested deeper than %d", maxJSONDepth)
	case c == '{':
		return s.object(t, path, depth+1)
	case c == '[':
		return s.array(t, path, depth+1)
	case c == '"':
		_, err := s.string()
		return err
	case c == '-' || '0' <= c && c <= '9':
		return s.number()
	}
	for _, word := range []string{"true", "false", "null"} {
		if bytes.HasPrefix(s.data[s.pos:], []byte(word)) {
			s.pos += len(word)
			return nil
		}
	}
	if s.pos == len(s.data) {
		return s.fail("The JSON ends too early")
	}
	return s.fail("A JSON value is missing or misspelt")
}

func (s *jsonScanner) object(t reflect.Type, path string, depth int) error {
	fields := jsonFields(t)
	var seen []string
	s.pos++
	for s.space(); s.next() != '}'; s.space() {
		if len(seen) > 0 {
			if s.next() != ',' {
				return s.fail("A comma or } is missing")
			}
			s.pos++
			s.space()
		}
		if s.next() != '"' {
			return s.fail("A name in double quotes is missing")
		}
		name, err := s.string()
		if err != nil {
			return err
		}
		if slices.Contains(seen, name) {
			return s.fail("The name %q stands twice in one object", printable(name, maxEcho))
		}
		if len(seen) == maxJSONNames {
			return s.fail("An object has more than %d names", maxJSONNames)
		}
		seen = append(seen, name)
		inner, known := fields[name]
		field := ""
		if fields != nil {
			field = strings.TrimPrefix(path+"."+name, ".")
			if !known {
				s.unknown = append(s.unknown, unknownField(field, name, fields))
			}
		}
		s.space()
		if s.next() != ':' {
			return s.fail("A colon is missing")
		}
		s.pos++
		s.space()
		if err := s.value(inner, field, depth); err != nil {
			return err
		}
	}
	s.pos++
	return nil
}

// unknownField names a field that the body may not have, and the one that was probably meant.
func unknownField(field, name string, fields map[string]reflect.Type) fieldError {
	message := "is not a field of this request"
	for known := range fields {
		if strings.EqualFold(known, strings.ReplaceAll(name, "_", "")) {
			message += "; did you mean " + known + "?"
		}
	}
	return fieldError{cmp.Or(printable(field, maxEcho), `""`), "unknown_field", message}
}

func (s *jsonScanner) array(t reflect.Type, path string, depth int) error {
	if t = jsonElem(t); t != nil && t.Kind() == reflect.Slice {
		t = t.Elem()
	} else {
		t = nil
	}
	s.pos++
	s.space()
	for i := 0; s.next() != ']'; i++ {
		if i > 0 {
			if s.next() != ',' {
				return s.fail("A comma or ] is missing")
			}
			s.pos++
			s.space()
		}
		at := ""
		if t != nil {
			at = fmt.Sprintf("%s[%d]", path, i)
		}
		if err := s.value(t, at, depth); err != nil {
			return err
		}
		s.space()
	}
	s.pos++
	return nil
}

// string walks a string and returns its value.
func (s *jsonScanner) string() (string, error) {
	start := s.pos
	s.pos++
	for {
		switch c := s.next(); {
		case s.pos >= len(s.data):
			return "", s.fail("A string does not end")
		case c < 0x20:
			return "", s.fail("A control character stands unescaped in a string")
		case c == '"':
			s.pos++
			text := s.data[start:s.pos]
			if !bytes.ContainsRune(text, '\\') {
				return string(text[1 : len(text)-1]), nil
			}
			var value string
			if err := json.Unmarshal(text, &value); err != nil {
				return "", s.fail("A string is malformed")
			}
			return value, nil
		case c == '\\':
			if err := s.escape(); err != nil {
				return "", err
			}
		default:
			s.pos++
		}
	}
}

// escape walks one escape, with a surrogate pair as one.
func (s *jsonScanner) escape() error {
	s.pos++
	c := s.next()
	s.pos++
	if c != 'u' {
		if c == 0 || strings.IndexByte(`"\/bfnrt`, c) < 0 {
			return s.fail("An escape in a string is unknown")
		}
		return nil
	}
	unit, err := s.hex4()
	if err != nil {
		return err
	}
	switch {
	case unit == 0:
		return s.fail(`The character \u0000 is not allowed`)
	case 0xD800 <= unit && unit < 0xDC00:
		if !bytes.HasPrefix(s.data[s.pos:], []byte(`\u`)) {
			return s.fail("A surrogate stands alone")
		}
		s.pos += 2
		low, err := s.hex4()
		if err != nil {
			return err
		}
		if low < 0xDC00 || 0xDFFF < low {
			return s.fail("A surrogate stands alone")
		}
	case 0xDC00 <= unit && unit <= 0xDFFF:
		return s.fail("A surrogate stands alone")
	}
	return nil
}

func (s *jsonScanner) hex4() (uint64, error) {
	if s.pos+4 > len(s.data) {
		return 0, s.fail("A string does not end")
	}
	n, err := strconv.ParseUint(string(s.data[s.pos:s.pos+4]), 16, 16)
	if err != nil {
		return 0, s.fail(`\u needs four hexadecimal digits`)
	}
	s.pos += 4
	return n, nil
}

func (s *jsonScanner) number() error {
	start := s.pos
	for s.pos < len(s.data) && strings.IndexByte("+-.eE0123456789", s.data[s.pos]) >= 0 {
		s.pos++
	}
	if !json.Valid(s.data[start:s.pos]) {
		return s.fail("A number is malformed")
	}
	return nil
}

// jsonFields maps the names an object of type t may have to their types; nil where any may stand.
func jsonFields(t reflect.Type) map[string]reflect.Type {
	t = jsonElem(t)
	if t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	fields := map[string]reflect.Type{}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name != "" && name != "-" {
			fields[name] = t.Field(i).Type
		}
	}
	return fields
}

// jsonElem is the type behind pointers and optional.
func jsonElem(t reflect.Type) reflect.Type {
	for t != nil {
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		} else if o, ok := reflect.Zero(t).Interface().(interface{ elem() reflect.Type }); ok {
			t = o.elem()
		} else {
			return t
		}
	}
	return nil
}

// optional is a field of a merge patch (RFC 7396): absent keeps, null clears, a value sets.
type optional[T any] struct {
	set   bool // the field was in the body
	null  bool // as null
	value T
}

func (o *optional[T]) UnmarshalJSON(data []byte) error {
	o.set = true
	if string(data) == "null" {
		o.null = true
		return nil
	}
	return json.Unmarshal(data, &o.value)
}

func (optional[T]) elem() reflect.Type { return reflect.TypeFor[T]() }
