package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha512"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"
)

const (
	minPassword     = 8                       // characters
	maxPassword     = 128                     // characters
	hashingPatience = 1500 * time.Millisecond // waiting for a slot to hash a password
	maxWaiting      = 64                      // passwords on their way to one; more have no hope
)

// storedPassword is what sign-in needs to know of an account.
type storedPassword struct {
	ID           uuid
	Email        string
	PasswordHash string
	IsActive     bool
	FirstName    string
	LastName     string
	TOTPSecret   []byte // nil while there is no second factor
}

const (
	storedPasswordColumns = `id, password_hash, is_active, email, first_name, last_name,
	CASE WHEN totp_since IS NOT NULL THEN totp_secret END AS totp_secret`
	passwordByEmailSQL = `SELECT ` + storedPasswordColumns + ` FROM users WHERE email = $1`
	passwordByIDSQL    = `SELECT ` + storedPasswordColumns + ` FROM users WHERE id = $1`
)

// newPassword checks a password to be set for somebody with these names and addresses.
func (f *fields) newPassword(field, value string, own ...string) {
	before := len(f.errs)
	f.text(field, value, minPassword, maxPassword, false)
	if len(f.errs) == before && commonPassword(value, own...) {
		f.wrong(field, "too_common", "must not be a common word, a row of keys, a repetition, a short number or your own name")
	}
}

// everydayWords are what people choose first when they are asked for a password.
var everydayWords = strings.Fields(`
	password passwort passwd motdepasse contrasena senha parola secret geheim private
	welcome willkommen bienvenue hello hallo letmein openup opensesame access login logon signin
	admin administrator root master user guest demo test tester testing default changeme temp temporary
	iloveyou loveyou ilove love lover lovely forever sweetheart darling honey baby angel princess prince
	sunshine flower butterfly rainbow chocolate cookie banana cheese coffee pepper ginger sugar
	dragon monkey tiger lion eagle falcon wolf bear dog cat kitty puppy horse dolphin panther phoenix
	football fussball soccer baseball basketball hockey tennis golf rugby liverpool arsenal chelsea yankees
	superman batman spiderman starwars pokemon naruto matrix ninja samurai warrior knight hunter killer wizard
	shadow freedom whatever trustno nothing internet computer samsung google facebook android windows linux
	michael jessica ashley daniel thomas robert charlie jordan andrew anthony nicole jennifer
	summer winter spring autumn monday friday january december newyear london paris berlin america
	blessed jesus maria god heaven money lucky happy number one power star mustang ferrari porsche mercedes
	qwerty qwertz azerty asdf zxcv abc company office work taskflow`)

// commonPassword tells whether a password is one that is tried first: one or two everyday words or
// words of the user's own, whatever digits and signs stand around or for letters; keys in a row,
// letters in their order, or the same again; or a number of fewer than twelve digits. That needs no
// list of passwords, and covers the head of every such list.
func commonPassword(password string, own ...string) bool {
	lower := strings.ToLower(password)
	if strings.Trim(lower, "0123456789 .-/") == "" && len(lower) < 12 || repeats(lower) || inRows(lower, 3) {
		return true
	}
	words := everydayWords
	for _, text := range own {
		for _, word := range append(strings.FieldsFunc(strings.ToLower(text), isNoLetter), strings.ToLower(text)) {
			if len(word) >= 3 {
				words = append(slices.Clip(words), word, strings.Join(strings.FieldsFunc(word, isNoLetter), ""))
			}
		}
	}
	for _, core := range []string{lower, strings.TrimRightFunc(lower, isNoLetter), strings.TrimFunc(lower, isNoLetter)} {
		for _, undo := range []*strings.Replacer{asTheyAre, asLetters, asLettersToo} {
			letters := strings.Join(strings.FieldsFunc(undo.Replace(core), isNoLetter), "")
			if 2*len(letters) >= len(lower) && (isWords(letters, words) || inRows(letters, 4)) {
				return true
			}
		}
	}
	return false
}

// isNoLetter holds for digits, signs and spaces.
func isNoLetter(r rune) bool { return r < 'a' || 'z' < r && r < 0xc0 }

// What digits and signs are put for. A 1 may be an i or an l.
var (
	asTheyAre    = strings.NewReplacer()
	asLetters    = strings.NewReplacer("0", "o", "1", "i", "!", "i", "|", "i", "3", "e", "4", "a", "@", "a", "5", "s", "$", "s", "7", "t", "+", "t", "8", "b", "9", "g")
	asLettersToo = strings.NewReplacer("0", "o", "1", "l", "!", "l", "|", "l", "3", "e", "4", "a", "@", "a", "5", "s", "$", "s", "7", "t", "+", "t", "8", "b", "9", "g")
)

// isWords tells whether a text is one of the words or two of them, one after the other.
func isWords(text string, words []string) bool {
	for _, first := range words {
		if rest, ok := strings.CutPrefix(text, first); ok && (rest == "" || slices.Contains(words, rest)) {
			return true
		}
	}
	return false
}

// repeats tells whether a text is a shorter one of up to four characters, again and again.
func repeats(text string) bool {
	chars := []rune(text)
	for n := 1; n <= 4 && 2*n <= len(chars); n++ {
		if slices.Equal(chars[n:], chars[:len(chars)-n]) {
			return true
		}
	}
	return false
}

// keyboards are rows of keys, each half a key to the right of the one above.
var keyboards = [][]string{{"1234567890-=", "qwertyuiop[]", "asdfghjkl;'", "zxcvbnm,./"}, {"1234567890", "qwertzuiop", "asdfghjkl", "yxcvbnm"}, {"1234567890", "azertyuiop", "qsdfghjklm", "wxcvbn"}}

// unshifted are the keys on which an American keyboard has its signs.
var unshifted = strings.NewReplacer("!", "1", "@", "2", "#", "3", "$", "4", "%", "5", "^", "6", "&", "7", "*", "8", "(", "9", ")", "0", "_", "-")

// inRows tells whether a text falls into pieces of at least so many characters in which each is next
// to the one before it: on a keyboard, in the alphabet, or the same.
func inRows(text string, least int) bool {
	chars := []rune(unshifted.Replace(text))
	piece := 1
	for i := 1; i < len(chars); i++ {
		switch {
		case neighbours(chars[i-1], chars[i]):
			piece++
		case piece < least:
			return false
		default:
			piece = 1
		}
	}
	return piece >= least
}

func neighbours(a, b rune) bool {
	if d := a - b; -1 <= d && d <= 1 {
		return true
	}
	for _, rows := range keyboards {
		for y, row := range rows {
			x := strings.IndexRune(row, a)
			if x < 0 {
				continue
			}
			for dy, dxs := range map[int][2]int{-1: {0, 1}, 0: {-1, 1}, 1: {-1, 0}} {
				if y+dy < 0 || y+dy >= len(rows) {
					continue
				}
				if at := strings.IndexRune(rows[y+dy], b); at >= 0 && x+dxs[0] <= at && at <= x+dxs[1] {
					return true
				}
			}
		}
	}
	return false
}

// passwordKey keeps our password digests apart from anybody else's SHA-384 lists. It is no secret
// and must never change. It is not derived from JWT_SECRET, so that secret can be replaced.
const passwordKey = "taskflow/password/v1"

// passwordDigest is the password in 64 characters without NUL, because bcrypt stops at NUL and
// ignores what comes after 72 bytes.
func passwordDigest(password string) []byte {
	h := hmac.New(sha512.New384, []byte(passwordKey))
	h.Write([]byte(password))
	return []byte(base64.StdEncoding.EncodeToString(h.Sum(nil)))
}

// hashPassword is slow on purpose; see hashSlot.
func (s *server) hashPassword(ctx context.Context, password string) (string, error) {
	if err := s.hashPlace(); err != nil {
		return "", err
	}
	defer s.waiting.Add(-1)
	if err := s.hashSlot(ctx); err != nil {
		return "", err
	}
	defer func() { <-s.hashing }()
	hash, err := bcrypt.GenerateFromPassword(passwordDigest(password), s.config.bcryptCost)
	return string(hash), err
}

// hashPlace takes one of the places of those who want a password hashed, to be given back by
// s.waiting.Add(-1). It comes before all that costs more than a refusal.
func (s *server) hashPlace() error {
	if s.waiting.Add(1) > maxWaiting {
		s.waiting.Add(-1)
		return tooManyHashes()
	}
	return nil
}

// hashSlot waits, in a place, for one of the few slots in which passwords are hashed, so that many
// sign-ins at once cannot take every processor from the rest. There is one less than processors.
func (s *server) hashSlot(ctx context.Context) error {
	select {
	case s.hashing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.hashWait):
		return tooManyHashes()
	}
}

func tooManyHashes() error { return newProblem("unavailable", "Too many sign-ins at once.") }
