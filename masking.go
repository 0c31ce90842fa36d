package main

import (
	"bytes"
	"encoding/json"
	"regexp"
)

const (
	maskedText     = "[masked]"
	unreadableText = "[unreadable]"
)

var (
	// secretName is what secrets are called in payloads.
	secretName = regexp.MustCompile(`(?i)passw|secret|token|credential|authorization|cookie|signature|api[-_ ]?key|private[-_ ]?key|^(otp|totp|pin|code)$`)
	// secretText is a secret inside a text: after its name, as name=value, name: value or "name":"value";
	// or by its form: our own tokens, a JWT, the password of an address.
	secretText = regexp.MustCompile(`(?i)(` +
		`(?:passw[a-z]*|[a-z_]*secret|[a-z_]*token|credentials?|authorization|cookie|signature|api[-_ ]?key|private[-_ ]?key)\\?["']?\s*[:=]\s*` +
		`)(?:(?:bearer|basic)\s+)?(?:\\?"(?:[^"\\]|\\.)*"?|'[^']*'?|[^\s"'\\&,;<>(){}]+)` +
		`|\b(?:tf_|whsec_)[A-Za-z0-9_+/=-]{16,}` +
		`|\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*` +
		`|(://[^\s/:@]*:)[^\s/@]+(@)`)
)

// maskText is a text for operators' eyes: what looks like a secret in it is not shown.
func maskText(text string) string {
	return secretText.ReplaceAllString(text, "${1}${2}"+maskedText+"${3}")
}

// masked is a payload without its secrets, and otherwise exactly as it is.
func masked(payload json.RawMessage) json.RawMessage {
	in := json.NewDecoder(bytes.NewReader(payload))
	in.UseNumber() // numbers keep all their digits
	var v any
	if err := in.Decode(&v); err != nil {
		return json.RawMessage(`"` + unreadableText + `"`)
	}
	out, err := json.Marshal(mask(v))
	if err != nil {
		return json.RawMessage(`"` + unreadableText + `"`)
	}
	return out
}

func mask(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, inner := range v {
			if secretName.MatchString(name) && inner != nil {
				v[name] = maskedText
			} else {
				v[name] = mask(inner)
			}
		}
	case []any:
		for i := range v {
			v[i] = mask(v[i])
		}
	case string:
		return maskText(v)
	}
	return v
}
