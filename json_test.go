package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// jsonSubject has a field of every kind that request bodies have.
type jsonSubject struct {
	Text    string             `json:"text"`
	Pointer *string            `json:"pointer"`
	Yes     bool               `json:"yes"`
	Whole   int64              `json:"whole"`
	Number  *float64           `json:"number"`
	ID      *uuid              `json:"id"`
	List    []string           `json:"list"`
	Inner   jsonInner          `json:"inner"`
	Maybe   optional[string]   `json:"maybe"`
	Deep    optional[jsonSome] `json:"deep"`
	Map     *map[string]string `json:"map"`
}

type jsonInner struct {
	Flag bool `json:"flag"`
}

type jsonSome struct {
	Names optional[[]string] `json:"names"`
}

// agrees fails the test if a text that unmarshalStrict accepts means something else to encoding/json.
func agrees(t *testing.T, text []byte) error {
	t.Helper()
	var strict, plain jsonSubject
	err := unmarshalStrict(text, &strict)
	if err != nil {
		p, ok := errors.AsType[*problem](err)
		if !ok || p.Code != "malformed_json" && (p.Code != "validation_failed" || len(p.Errors) == 0 || p.Errors[0].Field == "") {
			t.Fatalf("%q: refused with %#v, want a problem that says where", text, err)
		}
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&plain); err != nil || !utf8.Valid(text) {
		t.Fatalf("%q is accepted, but encoding/json says %v", text, err)
	}
	if !reflect.DeepEqual(strict, plain) {
		t.Fatalf("%q: got %+v, want %+v", text, strict, plain)
	}
	if trimmed := bytes.TrimLeft(text, " \t\r\n"); trimmed[0] != '{' || bytes.Contains(text, []byte(`\u0000`)) && !bytes.Contains(text, []byte(`\\u0000`)) {
		t.Fatalf("%q is accepted", text)
	}
	return nil
}

const goodJSON = `{"text":"a","pointer":null,"yes":true,"whole":-3,"number":1.5e2,"id":"0192f0c1-2345-7abc-8def-0123456789ab","list":["x",""],` +
	`"inner":{"flag":true},"maybe":null,"deep":{"names":["n"]},"map":{"a":"b","B":""}}`

// sound tells by encoding/json's own tokens whether a text is one that unmarshalStrict may read at all.
func sound(text []byte) bool {
	if !utf8.Valid(text) || !json.Valid(text) || bytes.TrimLeft(text, " \t\r\n")[0] != '{' {
		return false
	}
	type object struct {
		names map[string]bool // nil in an array
		value bool            // the next string is no name
	}
	var open []object
	replaced := 0 // U+FFFD in what was read
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber() // a float can be too great
	for {
		token, err := decoder.Token()
		if err != nil {
			break // the end, as the text is valid
		}
		name := len(open) > 0 && open[len(open)-1].names != nil && !open[len(open)-1].value
		if len(open) > 0 {
			open[len(open)-1].value = name
		}
		switch token := token.(type) {
		case json.Delim:
			switch token {
			case '{':
				open = append(open, object{names: map[string]bool{}})
			case '[':
				open = append(open, object{})
			default:
				open = open[:len(open)-1]
				if len(open) > 0 {
					open[len(open)-1].value = false
				}
			}
			if len(open) > maxJSONDepth {
				return false
			}
		case string:
			replaced += strings.Count(token, "\ufffd")
			if strings.Contains(token, "\x00") || name && open[len(open)-1].names[token] {
				return false
			}
			if name {
				open[len(open)-1].names[token] = true
				if len(open[len(open)-1].names) > maxJSONNames {
					return false
				}
			}
		}
	}
	written := bytes.Count(text, []byte("\ufffd")) // the others stand for surrogates alone
	for _, escape := range regexp.MustCompile(`\\(?:u[0-9a-fA-F]{4}|.)`).FindAll(text, -1) {
		if strings.EqualFold(string(escape), `\ufffd`) {
			written++
		}
	}
	return replaced == written
}

// FuzzJSON looks for a text about which unmarshalStrict and encoding/json disagree: one that is read
// differently, refused though it is sound, or accepted though it is not.
func FuzzJSON(f *testing.F) {
	f.Add([]byte(goodJSON))
	for _, value := range malformedValues {
		f.Add([]byte(`{"text":` + value + `}`))
		f.Add([]byte(`{"list":[` + value + `]}`))
	}
	for _, text := range []string{"", "{}", " {} ", "null", "[]", "{}{}", `{"TEXT":"a"}`, `{"t\u0065xt":"a"}`, `{"text":"a","text":"b"}`, `{"text":1}`, `{"whole":1.5}`, `{"whole":9223372036854775808}`,
		`{"id":"x"}`, `{"deep":{"names":null}}`, `{"deep":{"names":{}}}`, `{"map":{"a":1}}`, `{"map":{"a":"b","a":"c"}}`, `{"inner":null}`, `{"text":"\ud83d\ude00"}`, "\ufeff{}", `{"list":[[[]]]}`, `{"":1}`,
		`{"":[{"a":1e999,"a":0}]}`, `{"text":"\uFFFD\\ud800"}`, `{"zzz":[{"a":{"a":[{"b":1},{"b":1}]}}]}`, `{"pointer":null,"zzz":` + strings.Repeat("[", 31) + strings.Repeat("]", 31) + "}", "{" + manyNames(100) + "}", "{" + manyNames(101) + "}"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		began := time.Now()
		err := agrees(t, text)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%d bytes took %v", len(text), took)
		}
		p, _ := errors.AsType[*problem](err)
		if malformed := p != nil && p.Code == "malformed_json"; malformed == sound(text) {
			t.Errorf("%q: got %v, but encoding/json says %v", text, err, !malformed)
		}
		if err != nil {
			return
		}
		var top map[string]any
		json.Unmarshal(text, &top)
		for name := range top {
			if !slices.Contains([]string{"text", "pointer", "yes", "whole", "number", "id", "list", "inner", "maybe", "deep", "map"}, name) {
				t.Errorf("%q is accepted with the name %q", text, name)
			}
		}
		var small bytes.Buffer
		json.Compact(&small, text)
		var one, two jsonSubject
		if unmarshalStrict(text, &one) != nil || unmarshalStrict(small.Bytes(), &two) != nil || !reflect.DeepEqual(one, two) {
			t.Errorf("%q and the same without spaces are %+v and %+v", text, one, two)
		}
	})
}

func TestEveryKindOfFieldIsRead(t *testing.T) {
	t.Parallel()
	if err := agrees(t, []byte(goodJSON)); err != nil {
		t.Error(err)
	}
}

// randomText is any valid text, with what JSON has to escape more often than chance would.
func randomText() string {
	var b strings.Builder
	for range rand.IntN(20) {
		switch rand.IntN(4) {
		case 0:
			b.WriteString([]string{`"`, `\`, "/", "\n", "\t", "\u2028", "\x01", "<", "😀", "\ufffd", "\x7f"}[rand.IntN(11)])
		case 1:
			if r := rune(rand.IntN(0x110000-1) + 1); utf8.ValidRune(r) {
				b.WriteRune(r)
			}
		default:
			b.WriteByte(byte('a' + rand.IntN(26)))
		}
	}
	return b.String()
}

func TestValidDocumentsAreNeverRefused(t *testing.T) {
	t.Parallel()
	for range 20_000 {
		text, number := randomText(), rand.NormFloat64()*1e6
		document := map[string]any{}
		for name, value := range map[string]any{
			"text": text, "pointer": &text, "yes": rand.IntN(2) == 0, "whole": rand.Int64() - 1<<62, "number": number, "id": newUUID(), "list": []string{text, randomText()},
			"inner": map[string]bool{"flag": true}, "maybe": nil, "deep": map[string]any{"names": []string{text}}, "map": map[string]string{text: text, "b": ""},
		} {
			if rand.IntN(2) == 0 {
				document[name] = value
			}
		}
		body, err := json.Marshal(document)
		if err != nil {
			t.Fatal(err)
		}
		if rand.IntN(2) == 0 {
			var indented bytes.Buffer
			json.Indent(&indented, body, " ", "\t")
			body = indented.Bytes()
		}
		if err := agrees(t, body); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
	}
}

func TestJSONMayBeNestedThisDeepAndNoDeeper(t *testing.T) {
	t.Parallel()
	nested := func(depth int) []byte {
		return []byte(`{"unknown":` + strings.Repeat(`[`, depth-1) + `1` + strings.Repeat(`]`, depth-1) + `}`)
	}
	for depth, want := range map[int]string{maxJSONDepth: "unknown is not a field", maxJSONDepth + 1: "nested deeper than 32"} {
		if err := unmarshalStrict(nested(depth), &jsonSubject{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d levels: got %v, want %s", depth, err, want)
		}
	}
}

func TestJSONErrorsSayWhereAndHow(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{} {}`:                   "There is text after the JSON value at byte 3.",
		`{"text":"a" "yes":true}`: "A comma or } is missing at byte 12.",
		`{"text":"a","text":"b"}`: `The name "text" stands twice in one object at byte 18.`,
		`{"Text":"a"}`:            "Text is not a field of this request; did you mean text?",
		`{"deep":{"Names":[]}}`:   "deep.Names is not a field of this request; did you mean names?",
		`{"whole":1.5}`:           "whole must be a whole number, not number 1.5",
		`{"whole":` + strings.Repeat("9", 90) + `}`: "whole must be a whole number, not number " + strings.Repeat("9", 57) + "…",
		`{"id":"no"}`:            "id must be a UUID such as 0192f0c1-2345-7abc-8def-0123456789ab, not that text",
		`{"id":7}`:               "id must be a UUID such as 0192f0c1-2345-7abc-8def-0123456789ab, not number",
		`{"list":"a"}`:           "list must be an array, not string",
		`{"inner":[]}`:           "inner must be an object, not array",
		`{"deep":{"names":[1]}}`: "deep.names must be a string, not number",
		`{"yes":"true"}`:         "yes must be true or false, not string",
		`{"text":{}}`:            "text must be a string, not object",
		`{"maybe":1}`:            "maybe must be a string, not number",
		"{\"te\\u0001xt\":1}":    "te\ufffdxt is not a field of this request",
		"":                       "The body is empty; send a JSON object.",
	} {
		err := unmarshalStrict([]byte(text), &jsonSubject{})
		p, ok := errors.AsType[*problem](err)
		if !ok || p.Detail != want {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}
