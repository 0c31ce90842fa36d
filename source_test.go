package main

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// source is this package's own code, parsed and type-checked without its imports.
type source struct {
	fset  *token.FileSet
	files []*ast.File
	info  *types.Info
	pkg   *types.Package
}

// emptyImports gives every import as an empty package; errors that follow from it are ignored.
type emptyImports struct{}

func (emptyImports) Import(path string) (*types.Package, error) {
	pkg := types.NewPackage(path, path[strings.LastIndexByte(path, '/')+1:])
	pkg.MarkComplete()
	return pkg, nil
}

func readSource(t *testing.T) source {
	t.Helper()
	src := source{fset: token.NewFileSet(), info: &types.Info{Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{}}}
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, "_other.go") { // _other declares the same as _linux
			continue
		}
		file, err := parser.ParseFile(src.fset, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		src.files = append(src.files, file)
	}
	check := types.Config{Importer: emptyImports{}, Error: func(error) {}, FakeImportC: true}
	src.pkg, _ = check.Check("main", src.fset, src.files, src.info)
	return src
}

func (src source) file(pos token.Pos) string { return src.fset.Position(pos).Filename }

// order is the list of files in main.go's package comment.
func (src source) order(t *testing.T) map[string]int {
	t.Helper()
	order := map[string]int{}
	for _, file := range src.files {
		if src.file(file.Pos()) != "main.go" {
			continue
		}
		for _, line := range strings.Split(file.Doc.Text(), "\n") {
			names := regexp.MustCompile(`\b[a-z0-9_]+\.go\b`).FindAllString(line, -1)
			if strings.HasPrefix(line, "\t") || strings.HasPrefix(line, " ") {
				for _, name := range names {
					order[name] = len(order)
				}
			}
		}
	}
	return order
}

func TestFilesUseOnlyWhatIsBelowThem(t *testing.T) {
	src := readSource(t)
	order := src.order(t)
	for _, file := range src.files {
		name := src.file(file.Pos())
		if _, listed := order[name]; !listed {
			t.Errorf("%s is not in the list of main.go's package comment", name)
		}
	}
	seen := map[string]bool{}
	for ident, object := range src.info.Uses {
		if object.Pkg() != src.pkg || !object.Pos().IsValid() {
			continue
		}
		from, to := src.file(ident.Pos()), src.file(object.Pos())
		if from == to || order[from] <= order[to] {
			continue
		}
		message := fmt.Sprintf("%s uses %s of %s, which stands above it", from, object.Name(), to)
		if !seen[message] {
			t.Error(message)
		}
		seen[message] = true
	}
	if len(src.info.Uses) < 1000 {
		t.Errorf("only %d uses found: the check does not see the code", len(src.info.Uses))
	}
}

func TestEverySQLConstantIsPreparedAgainstTheSchema(t *testing.T) {
	src := readSource(t)
	s := newTestServer(t)
	conn, err := pgx.Connect(t.Context(), string(s.config.databaseURL))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	prepared := 0
	for ident, object := range src.info.Defs {
		c, ok := object.(*types.Const)
		if !ok || !strings.HasSuffix(ident.Name, "SQL") || strings.HasPrefix(ident.Name, "known") || strings.HasPrefix(ident.Name, "visible") {
			continue
		}
		sql := constant.StringVal(c.Val())
		if _, err := conn.Prepare(t.Context(), "", sql); err != nil {
			t.Errorf("%s in %s: %v", ident.Name, src.fset.Position(ident.Pos()), err)
		}
		prepared++
	}
	if prepared < 60 {
		t.Errorf("only %d statements found", prepared)
	}
}

func TestTheREADMEListsEverySettingAndNoOther(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)`").FindAllStringSubmatch(string(readme), -1) {
		listed = append(listed, row[1])
	}
	slices.Sort(listed)
	if want := slices.Sorted(slices.Values(settingNames)); !slices.Equal(listed, want) {
		t.Errorf("README lists %v, the program reads %v", listed, want)
	}
}
