package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"
)

const (
	macSize      = 16      // bytes of a truncated HMAC-SHA-256
	maxJWT       = 4 << 10 // bytes; longer ones are refused before they are looked at
	jwtIssuer    = "taskflow"
	jwtAudience  = "taskflow-api"
	jwtClockSkew = 30 * time.Second // allowed between the clocks of API processes
	maxVerified  = 10_000           // tokens remembered, some 500 bytes each
)

// keyring holds the signing secrets: the first signs, all verify, so that a secret can be changed
// without signing anybody out. Each use has a key of its own, derived from the secret.
type keyring struct {
	secrets [][]byte
	now     func() time.Time

	mu       sync.Mutex
	verified map[string]claims // of tokens seen lately, whose signature and form are good
}

func newKeyring(secrets ...secret) *keyring {
	k := &keyring{now: time.Now, verified: map[string]claims{}}
	for _, s := range secrets {
		if s != "" {
			k.secrets = append(k.secrets, []byte(s))
		}
	}
	return k
}

// derive is HMAC-SHA-256 of the use's name under the secret: a key per use.
func derive(secret []byte, use string) []byte { return sum256(secret, "taskflow/"+use) }

// sum256 is HMAC-SHA-256 over parts, each with its length before it so that no two lists of parts
// give the same input.
func sum256(key []byte, parts ...string) []byte {
	h := hmac.New(sha256.New, key)
	for _, part := range parts {
		n := len(part)
		h.Write([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
		h.Write([]byte(part))
	}
	return h.Sum(nil)
}

// mac authenticates parts for one use, in macSize bytes.
func (k *keyring) mac(use string, parts ...string) []byte {
	return sum256(derive(k.secrets[0], use), parts...)[:macSize]
}

func (k *keyring) verify(mac []byte, use string, parts ...string) bool {
	for _, secret := range k.secrets {
		if hmac.Equal(mac, sum256(derive(secret, use), parts...)[:macSize]) {
			return true
		}
	}
	return false
}

// jwtHeader is the whole header that this server writes and accepts (RFC 7515, RFC 9068).
type jwtHeader struct {
	Alg string `json:"alg"`
	Kid string `json:"kid"`
	Typ string `json:"typ"`
}

// claims is the whole content of an access token. Rights are not in it: they are looked up.
type claims struct {
	Issuer    string `json:"iss"`
	Audience  string `json:"aud"`
	Subject   uuid   `json:"sub"` // user
	Session   uuid   `json:"sid"`
	IssuedAt  int64  `json:"iat"` // seconds since 1970, as are nbf and exp
	NotBefore int64  `json:"nbf"`
	Expires   int64  `json:"exp"`
}

// accessToken signs a JSON Web Token (RFC 7519) with HS256 for one session.
func (k *keyring) accessToken(user, session uuid, life time.Duration) string {
	now := k.now().Unix()
	key := k.secrets[0]
	return signJWT(derive(key, "access"), jwtHeader{"HS256", keyID(key), "at+jwt"}, claims{
		Issuer: jwtIssuer, Audience: jwtAudience, Subject: user, Session: session,
		IssuedAt: now, NotBefore: now, Expires: now + int64(life.Seconds()),
	})
}

// keyID names a secret in a token's header without telling anything of it.
func keyID(secret []byte) string { return hex.EncodeToString(derive(secret, "kid")[:4]) }

func signJWT(key []byte, header jwtHeader, c claims) string {
	h, _ := json.Marshal(header) // strings and numbers only
	b, _ := json.Marshal(c)
	signed := base64.RawURLEncoding.EncodeToString(h) + "." + base64.RawURLEncoding.EncodeToString(b)
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature(key, signed))
}

// signature is HMAC-SHA-256 over the token's own text, as RFC 7515 has it.
func signature(key []byte, signed string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(signed))
	return h.Sum(nil)
}

var errToken = errors.New("access token not valid")

// verifyAccess returns the claims of a token that this server signed and that is valid now.
// A token that was verified before is only compared, and its times judged anew.
func (k *keyring) verifyAccess(token string) (claims, error) {
	if len(token) > maxJWT {
		return claims{}, errToken
	}
	k.mu.Lock()
	c, known := k.verified[token]
	k.mu.Unlock()
	if !known {
		var err error
		if c, err = k.openAccess(token); err != nil {
			return claims{}, err
		}
		k.mu.Lock()
		if len(k.verified) >= maxVerified {
			clear(k.verified)
		}
		k.verified[token] = c
		k.mu.Unlock()
	}
	now, skew := k.now().Unix(), int64(jwtClockSkew.Seconds())
	if now >= c.Expires || now < c.NotBefore-skew || now < c.IssuedAt-skew {
		return claims{}, errToken
	}
	return c, nil
}

// openAccess checks a token's signature before anything of its content is looked at. Everything about
// the token but its claims must be exactly as this server writes it.
func (k *keyring) openAccess(token string) (claims, error) {
	if strings.Count(token, ".") != 2 {
		return claims{}, errToken
	}
	signed, sig, _ := cutLast(token, ".")
	mac, err := decodeSegment(sig)
	if err != nil {
		return claims{}, errToken
	}
	for _, secret := range k.secrets {
		if hmac.Equal(mac, signature(derive(secret, "access"), signed)) {
			return readClaims(signed, secret)
		}
	}
	return claims{}, errToken
}

func readClaims(signed string, secret []byte) (claims, error) {
	head, body, _ := strings.Cut(signed, ".")
	var header jwtHeader
	var c claims
	if decodeStrict(head, &header) != nil || decodeStrict(body, &c) != nil {
		return claims{}, errToken
	}
	if header != (jwtHeader{"HS256", keyID(secret), "at+jwt"}) || c.Issuer != jwtIssuer || c.Audience != jwtAudience || !c.whole() {
		return claims{}, errToken
	}
	return c, nil
}

// whole tells whether no claim is missing, and the token's life is one that can be set. Without a
// session it would pass for what stands for an API token.
func (c claims) whole() bool {
	return c.Subject != (uuid{}) && c.Session != (uuid{}) && c.NotBefore > 0 && c.IssuedAt > 0 && c.Expires-c.IssuedAt <= int64(maxAccessTTL.Seconds())
}

// decodeStrict reads a JSON segment by the rules for request bodies: nothing unknown, nothing twice.
func decodeStrict(segment string, dst any) error {
	raw, err := decodeSegment(segment)
	if err != nil {
		return err
	}
	return unmarshalStrict(raw, dst)
}

// decodeSegment reads base64url in its one canonical form; the standard decoder skips newlines.
func decodeSegment(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errToken
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}

// cutLast is strings.Cut around the last separator.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
