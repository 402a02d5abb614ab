package s2dev

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	sdkModule = "github.com/s2-streamstore/s2-sdk-go"
	// suiteTotal is the number of tests that the SDK's own integration pattern selects.
	suiteTotal = 221
)

func sdkDir(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", sdkModule).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// suitePattern is the -run argument of the SDK's Taskfile task test:integration.
func suitePattern(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "Taskfile.yml"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "test:integration:")
	if ok {
		_, rest, ok = strings.Cut(rest, "-run '")
	}
	pattern, _, end := strings.Cut(rest, "'")
	if !ok || !end {
		t.Fatal("no pattern in the SDK's Taskfile")
	}
	return pattern
}

func readLines(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out
}

// runSuite runs the SDK's tests against a server and returns what each top-level test ended with,
// and the output of those that failed.
func runSuite(t *testing.T, url string) (ended, output map[string]string) {
	t.Helper()
	dir := sdkDir(t)
	cmd := exec.Command("go", "test", "-json", "-count=1", "-timeout=5m",
		"-run", suitePattern(t, dir), "./s2")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "S2_ACCESS_TOKEN=ignored", "GOFLAGS=-mod=mod", "GOWORK=off",
		"S2_ACCOUNT_ENDPOINT="+url, "S2_BASIN_ENDPOINT="+url)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended, output = map[string]string{}, map[string]string{}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var e struct{ Action, Test, Output string }
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Test == "" {
			continue
		}
		top, _, sub := strings.Cut(e.Test, "/")
		switch e.Action {
		case "output":
			output[top] += e.Output
		case "pass", "fail", "skip":
			if !sub {
				ended[top] = e.Action
			}
		}
	}
	// Some tests are expected to fail, so the exit code says nothing.
	_ = cmd.Wait()
	if len(ended) == 0 {
		t.Fatalf("no test ran: %s", stderr.String())
	}
	return ended, output
}

func TestSDKSuite(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs another module's tests")
	}
	t.Run("memory", func(t *testing.T) { testSuite(t, Config{}) })
	t.Run("disk", func(t *testing.T) { testSuite(t, Config{Dir: t.TempDir()}) })
}

func testSuite(t *testing.T, cfg Config) {
	s := open(t, cfg)
	excepted := readLines(t, "testdata/sdk_exceptions.txt")
	ended, output := runSuite(t, s.URL()+"/v1")
	passed, failed := 0, 0
	for test, how := range ended {
		listed := slices.Contains(excepted, test)
		switch {
		case how == "pass" && !listed:
			passed++
		case how == "pass":
			t.Errorf("%s passes: take it out of the exceptions", test)
		case listed:
			failed++
		default:
			t.Errorf("%s: %s\n%s", test, how, output[test])
		}
	}
	t.Logf("sdk suite: %d passed, %d excepted of %d", passed, failed, len(ended))
	if len(ended) != suiteTotal {
		t.Errorf("the suite has %d tests, not %d", len(ended), suiteTotal)
	}
	if failed != len(excepted) {
		t.Errorf("%d of %d exceptions ran", failed, len(excepted))
	}
}
