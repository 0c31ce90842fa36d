package check

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	unitFile     = "deploy/systemd/taskflow.service"
	settingsFile = "deploy/systemd/taskflow.env"
	maxExposure  = "20" // tenths, as systemd rates what a service could do to the machine; 96 without any protection
)

// unit is a unit's lines by their names, of all its sections.
func unit(t *testing.T) map[string][]string {
	t.Helper()
	values := map[string][]string{}
	for lines := bufio.NewScanner(bytes.NewReader(read(t, unitFile))); lines.Scan(); {
		if name, value, is := strings.Cut(lines.Text(), "="); is && !strings.HasPrefix(name, "#") {
			values[name] = append(values[name], value)
		}
	}
	return values
}

// TestUnitIsWhatSystemdExpects lets systemd read the unit, with a program where it says that there is one.
func TestUnitIsWhatSystemdExpects(t *testing.T) {
	program, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	text := read(t, unitFile)
	here := bytes.Replace(text, []byte("ExecStart=/usr/local/bin/taskflow "), []byte("ExecStart="+program+" "), 1)
	if bytes.Equal(here, text) {
		t.Fatal("it does not start /usr/local/bin/taskflow")
	}
	path := filepath.Join(t.TempDir(), "taskflow.service")
	if err := os.WriteFile(path, here, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	out, err := exec.Command("systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold="+maxExposure, path).CombinedOutput()
	overall := regexp.MustCompile(`Overall exposure level.*`).Find(out)
	if err != nil || overall == nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
	t.Logf("%s", overall)
}

func TestUnitGivesTheProgramTimeAndAnother(t *testing.T) {
	values := unit(t)
	wait, err := time.ParseDuration(strings.Join(values["TimeoutStopSec"], "") + "s")
	if err != nil || wait < stopLimit {
		t.Errorf("TimeoutStopSec=%v, want at least %v", values["TimeoutStopSec"], stopLimit)
	}
	for name, want := range map[string]string{"Type": "exec", "Restart": "always", "StartLimitIntervalSec": "0", "User": "taskflow"} {
		if got := strings.Join(values[name], ","); got != want {
			t.Errorf("%s=%s, want %s", name, got, want)
		}
	}
	if !strings.Contains(strings.Join(values["StateDirectory"], " "), "taskflow/files") {
		t.Errorf("StateDirectory=%v, want the folder of attachments in it", values["StateDirectory"])
	}
}

// unitEnvironment is what systemd gives the program: Environment, then the file of settings, with
// credentials in a folder.
func unitEnvironment(t *testing.T) []string {
	t.Helper()
	values, credentials := unit(t), t.TempDir()
	for name, secret := range map[string]string{
		"database_url": "postgres://taskflow:secret@127.0.0.1:1/taskflow",
		"redis_url":    "redis://127.0.0.1:1/0",
		"jwt_secret":   strings.Repeat("k", 32),
	} {
		if !slices.Contains(values["LoadCredential"], name+":/etc/taskflow/"+name) {
			t.Errorf("the unit does not hand over /etc/taskflow/%s", name)
			continue
		}
		if err := os.WriteFile(filepath.Join(credentials, name), []byte(secret+"\n"), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	var env []string
	for _, line := range values["Environment"] {
		env = append(env, strings.Fields(strings.ReplaceAll(line, "%d", credentials))...)
	}
	return append(env, settingsIn(t, `(?m)^([A-Z_]+=.*)$`)...)
}

// settingsIn is what a pattern finds in the file of settings.
func settingsIn(t *testing.T, pattern string) (found []string) {
	t.Helper()
	for _, match := range regexp.MustCompile(pattern).FindAllSubmatch(read(t, settingsFile), -1) {
		found = append(found, string(match[1]))
	}
	return found
}

func TestSettingsOfTheUnitAreSettings(t *testing.T) {
	known, names := settingNames(t), settingsIn(t, `(?m)^#?([A-Z_]+)=`)
	if len(names) < 8 {
		t.Errorf("only %v found", names)
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			t.Errorf("%s: %s is no setting", settingsFile, name)
		}
	}
	for _, pair := range unitEnvironment(t) {
		if name, _, _ := strings.Cut(pair, "="); !slices.Contains(known, strings.TrimSuffix(name, "_FILE")) {
			t.Errorf("%s: %s is no setting", unitFile, name)
		}
	}
}
