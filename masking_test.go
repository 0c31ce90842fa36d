package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestMaskedPayloadsKeepEverythingButSecrets(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`{"b":1,"a":[12345678901234567890,1.50,-0,1e400]}`, `{"a":[12345678901234567890,1.50,-0,1e400],"b":1}`},
		{`null`, `null`},
		{`"plain"`, `"plain"`},
		{`{"password":"hunter2","user":"ada"}`, `{"password":"[masked]","user":"ada"}`},
		{`{"a":[{"apiKey":{"deep":1}}],"Set-Cookie":"x","refresh_token":7}`, `{"Set-Cookie":"[masked]","a":[{"apiKey":"[masked]"}],"refresh_token":"[masked]"}`},
		{`{"code":"123456","country_code":"CH","token":null}`, `{"code":"[masked]","country_code":"CH","token":null}`},
		{`{"body":"Open https://x.test/reset?token=abc.DEF-1&lang=en soon"}`, `{"body":"Open https://x.test/reset?token=[masked]\u0026lang=en soon"}`},
		{`{"inner":"{\"password\": \"hun\\\"ter2\", \"n\": 1}"}`, `{"inner":"{\"password\": [masked], \"n\": 1}"}`},
		{`"Authorization: Bearer abc.def, Accept: x"`, `"Authorization: [masked], Accept: x"`},
		{`"postgres://ada:hunter2@db/x and redis://:hunter2@r"`, `"postgres://ada:[masked]@db/x and redis://:[masked]@r"`},
		{`"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOjF9.c2ln"`, `"[masked]"`},
		{`"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"`, `"[masked]"`},
		{`{"unbalanced`, `"[unreadable]"`},
	} {
		if got := string(masked(json.RawMessage(c.in))); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.in, got, c.want)
		}
	}
}

func FuzzMaskedNeverShowsASecretByItsName(f *testing.F) {
	f.Add("password", "hunter2")
	f.Add("X-Api-Key", `a"b\c`)
	f.Fuzz(func(t *testing.T, name, value string) {
		if !secretName.MatchString(name) || len(value) < 4 || strings.Contains(maskedText, value) || strings.Contains(name, value) {
			return
		}
		in := jsonOf(map[string]any{"a": []any{map[string]string{name: value}}})
		if got := string(masked(json.RawMessage(in))); strings.Contains(got, strings.Trim(jsonOf(value), `"`)) {
			t.Errorf("%s became %s", in, got)
		}
	})
}
