package check

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// stages is the Dockerfile as BuildKit reads it, with what its linter and its parser warn of. They
// know the rules of single instructions; those that need a base image are seen where images are built.
func stages(t *testing.T, content []byte) (all []instructions.Stage, warnings []string) {
	t.Helper()
	file, err := parser.Parse(bytes.NewReader(content))
	if err != nil {
		t.Fatalf("Dockerfile: %v", err)
	}
	for _, warning := range file.Warnings {
		warnings = append(warnings, fmt.Sprintf("line %d: %s", warning.Location.Start.Line, warning.Short))
	}
	lint := linter.New(&linter.Config{ExperimentalAll: true, Warn: func(rule, _, _, message string, at []parser.Range) {
		warnings = append(warnings, fmt.Sprintf("line %d: %s: %s", at[0].Start.Line, rule, message))
	}})
	all, global, err := instructions.Parse(file.AST, lint)
	if err != nil {
		t.Fatalf("Dockerfile: %v", err)
	}
	if len(global) > 0 {
		t.Errorf("Dockerfile: ARG before the first FROM, which these tests do not expand")
	}
	return all, warnings
}

// last is the last instruction of a kind in a stage, the one that counts; the zero value where there is none.
func last[T instructions.Command](stage instructions.Stage) (found T) {
	for _, command := range stage.Commands {
		if c, is := command.(T); is {
			found = c
		}
	}
	return found
}

func TestDockerfileHasNoWarnings(t *testing.T) {
	_, warnings := stages(t, read(t, "Dockerfile"))
	for _, warning := range warnings {
		t.Errorf("Dockerfile, %s", warning)
	}
}

func TestDockerfileNamesTheVersionOfWhatItBuildsWith(t *testing.T) {
	all, _ := stages(t, read(t, "Dockerfile"))
	goVersion := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(read(t, "go.mod"))
	want := fmt.Sprintf("golang:%s-alpine", goVersion[1])
	if all[0].BaseName != want {
		t.Errorf("the program is built in %s, want %s as go.mod has it", all[0].BaseName, want)
	}
}

// TestEveryVariableOfTheDockerfileIsDeclared finds the misspelled ARG, which would be empty without a word.
func TestEveryVariableOfTheDockerfileIsDeclared(t *testing.T) {
	all, _ := stages(t, read(t, "Dockerfile"))
	used := 0
	for _, stage := range all {
		declared := []string{"PATH"}
		for _, command := range stage.Commands {
			switch c := command.(type) {
			case *instructions.ArgCommand:
				for _, arg := range c.Args {
					declared = append(declared, arg.Key)
				}
				continue
			case *instructions.EnvCommand:
				for _, env := range c.Env {
					declared = append(declared, env.Key)
				}
			}
			for _, name := range regexp.MustCompile(`\$\{?(\w+)`).FindAllStringSubmatch(fmt.Sprint(command), -1) {
				if used++; !slices.Contains(declared, name[1]) {
					t.Errorf("%s uses $%s, which no ARG before it declares", command.Name(), name[1])
				}
			}
		}
	}
	if used < 4 {
		t.Errorf("only %d uses found: the check does not see them", used)
	}
}

func TestImageIsOneProgramThatIsNobody(t *testing.T) {
	all, _ := stages(t, read(t, "Dockerfile"))
	final := all[len(all)-1]
	if final.BaseName != "scratch" {
		t.Errorf("it starts from %s, want scratch: no shell and no package to be kept up to date", final.BaseName)
	}
	user := last[*instructions.UserCommand](final)
	if user == nil {
		t.Fatal("it has no USER")
	}
	for _, id := range strings.Split(user.User, ":") {
		if n, err := strconv.Atoi(id); err != nil || n < 1000 {
			t.Errorf("USER %s, want numbers of no system account: there is no /etc/passwd, and orchestrators refuse names", user.User)
		}
	}
	for _, command := range final.Commands {
		if c, is := command.(*instructions.CopyCommand); is && c.Chown != "" && c.Chown != user.User {
			t.Errorf("a COPY gives files to %s, but the program runs as %s", c.Chown, user.User)
		}
		if command.Name() == "RUN" {
			t.Error("RUN in a stage that has no shell")
		}
	}
	entry := last[*instructions.EntrypointCommand](final)
	if entry == nil || entry.PrependShell || len(entry.CmdLine) != 1 {
		t.Fatalf("ENTRYPOINT is %v, want the program alone in brackets, so that it gets the signals", entry)
	}
	if cmd := last[*instructions.CmdCommand](final); cmd == nil || cmd.PrependShell || !slices.Equal(cmd.CmdLine, []string{"serve"}) {
		t.Errorf("CMD is %v, want [serve]", cmd)
	}
	if expose := last[*instructions.ExposeCommand](final); expose == nil || !slices.Equal(expose.Ports, []string{"8080"}) {
		t.Errorf("EXPOSE is %v, want 8080, where the program listens when nothing is set", expose)
	}
	check := last[*instructions.HealthCheckCommand](final)
	if check == nil {
		t.Fatal("it has no HEALTHCHECK")
	}
	if want := []string{"CMD", entry.CmdLine[0], "healthcheck"}; !slices.Equal(check.Health.Test, want) {
		t.Errorf("HEALTHCHECK runs %q, want %q", check.Health.Test, want)
	}
	if check.Health.Timeout < 4*time.Second || check.Health.Interval > 30*time.Second || check.Health.Interval == 0 {
		t.Errorf("HEALTHCHECK every %v with a timeout of %v: want every 30 s or oftener, and more than the 3 s that the command takes at most", check.Health.Interval, check.Health.Timeout)
	}
	labels := map[string]string{}
	for _, command := range final.Commands {
		if c, is := command.(*instructions.LabelCommand); is {
			for _, label := range c.Labels {
				labels[label.Key] = label.Value
			}
		}
	}
	for _, name := range []string{"title", "description", "licenses", "version"} {
		if labels["org.opencontainers.image."+name] == "" {
			t.Errorf("it has no label org.opencontainers.image.%s", name)
		}
	}
}
