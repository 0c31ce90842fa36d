package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestDescriptionIsLintClean(t *testing.T) {
	lint := exec.CommandContext(t.Context(), node(t), installed(t, "@redocly/cli/bin/cli.js"), "lint", "--config", "redocly.yaml", description)
	lint.Env = append(os.Environ(), "REDOCLY_TELEMETRY=off", "REDOCLY_SUPPRESS_UPDATE_NOTICE=true")
	if out, err := lint.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Everybody installs from his own registry; the hashes say what he must get.
func TestLockFileNamesNoRegistryAndHoldsHashes(t *testing.T) {
	text, err := os.ReadFile("package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	var lock struct {
		Packages map[string]struct {
			Version, Resolved, Integrity string
			DevDependencies              map[string]string
		}
	}
	if err := json.Unmarshal(text, &lock); err != nil {
		t.Fatal(err)
	}
	for name, pkg := range lock.Packages {
		if pkg.Resolved != "" {
			t.Errorf("%s is resolved to an address; run npm install with this folder's .npmrc", name)
		}
		if name != "" && pkg.Integrity == "" {
			t.Errorf("%s has no hash", name)
		}
	}
	exact := regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+$`)
	for name, version := range lock.Packages[""].DevDependencies {
		if !exact.MatchString(version) {
			t.Errorf("%s has the version %s, want an exact one", name, version)
		}
	}
}

// node is the path of Node.js, of a version that the packages in package.json run on.
func node(t *testing.T) string {
	t.Helper()
	const advice = "these tests need Node.js 20.19 or newer with npm: from https://nodejs.org, or by apt-get install nodejs npm where that is new enough"
	program, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("node is not installed; %s", advice)
	}
	out, err := exec.CommandContext(t.Context(), program, "--version").Output()
	if err != nil {
		t.Fatalf("%s --version: %v", program, err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(string(out), "v%d.%d", &major, &minor); err != nil || major < 20 || major == 20 && minor < 19 {
		t.Fatalf("%s is %s; %s", program, out, advice)
	}
	return program
}

// installed is the path of a file of an npm package.
func installed(t *testing.T, name string) string {
	t.Helper()
	file := filepath.Join("node_modules", filepath.FromSlash(name))
	if _, err := os.Stat(file); err != nil {
		t.Fatalf("%v; run npm ci in e2e", err)
	}
	return file
}

// problem.go is where codes are made up; whoever reads the description must find all of them.
func TestDescriptionListsEveryProblemCode(t *testing.T) {
	source, err := os.ReadFile("../problem.go")
	if err != nil {
		t.Fatal(err)
	}
	c := newContract(t)
	table := c.schema("ProblemCode").Description
	var described []string
	for _, code := range c.schema("ProblemCode").Enum {
		described = append(described, code.Value)
	}
	var known []string
	for _, m := range regexp.MustCompile(`(?m)^\t"([a-z_]+)": *\{([0-9]{3}), "[^"]*", "(.*)"\},$`).FindAllStringSubmatch(string(source), -1) {
		known = append(known, m[1])
		if row := "| `" + m[1] + "` | " + m[2] + " | " + m[3] + " |"; !strings.Contains(table, row) {
			t.Errorf("the table of codes lacks %s", row)
		}
	}
	slices.Sort(described)
	slices.Sort(known)
	if len(known) < 20 || !slices.Equal(described, known) {
		t.Errorf("the description has the codes %v, problem.go %v", described, known)
	}
}
