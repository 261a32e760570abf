package carillon_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs/compatibility.md says which test shows what, and with which version of a client:
// a test that was renamed or removed, or a version that moved on, has to show there.
func TestCompatibilityIsShown(t *testing.T) {
	page, err := os.ReadFile("docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	var sources strings.Builder
	for _, pattern := range []string{"internal/*/*_test.go", "internal/*/testdata/management/*.golden", "interop/test_*.py", "interop/go/*_test.go", "interop/*.mjs"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, file := range files {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			sources.WriteString("file " + file + " \n")
			sources.Write(raw)
		}
	}
	all := sources.String()
	has := func(what, in string) {
		t.Helper()
		if !strings.Contains(all, in) {
			t.Errorf("docs/compatibility.md speaks of %s, which is not there", what)
		}
	}
	for _, name := range regexp.MustCompile("`(?:interop/)?((?:Test|Fuzz|test_)\\w+)(?:/[^`]*)?`").FindAllStringSubmatch(string(page), -1) {
		switch {
		case strings.HasPrefix(name[1], "test_") && strings.Contains(name[0], ".py"), name[1] == "TestGolden":
		case strings.HasPrefix(name[1], "test_"):
			has(name[1], "def "+name[1]+"(")
		default:
			has(name[1], "func "+name[1]+"(")
		}
	}
	for _, suite := range regexp.MustCompile("`(?:interop/)?(test_\\w+\\.py|[a-z]+\\.test\\.mjs|go/\\w+_test\\.go)`").FindAllStringSubmatch(string(page), -1) {
		has(suite[1], "file interop/"+suite[1]+" ")
	}
	for _, trap := range regexp.MustCompile("`(\\d+_[^`]+)`").FindAllStringSubmatch(string(page), -1) {
		has("the case "+trap[1], `t.Run("`+strings.ReplaceAll(trap[1], "_", " ")+`"`)
	}

	pinned := regexp.MustCompile(`(?m)^(azure-cli|azure-mgmt-eventgrid|azure-identity|azure-eventgrid|azure-core)==(.+)$|"@azure/[a-z-]+": "(.+)"|/(?:armeventgrid|armmachinelearning|azidentity|azeventgrid|armresources|armsubscriptions)(?:/v\d)? (v\S+)`)
	for _, file := range []string{"interop/requirements.txt", "interop/requirements-az.txt", "interop/package.json", "interop/go/go.mod"} {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := pinned.FindAllStringSubmatch(string(raw), -1)
		if len(found) == 0 {
			t.Errorf("no client is pinned in %s", file)
		}
		for _, pin := range found {
			if version := pin[2] + pin[3] + pin[4]; !strings.Contains(string(page), version) {
				t.Errorf("docs/compatibility.md does not name %s of %s", pin[0], file)
			}
		}
	}
}
