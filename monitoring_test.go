package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const testMetricsToken = "a token for scraping"

// scrape is what a server tells Prometheus: samples by name and labels, as they are written.
func (ts *testServer) scrape() map[string]float64 {
	ts.t.Helper()
	return readExposition(ts.t, ts.metrics(ts.t.Context()))
}

var sampleLine = regexp.MustCompile(`^([a-z_]+(?:\{(?:[a-z_]+="(?:[^"\\]|\\.)*",?)+\})?) (\S+)$`)

func readExposition(t testing.TB, text []byte) map[string]float64 {
	t.Helper()
	samples := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") {
			continue
		}
		match := sampleLine.FindStringSubmatch(line)
		if match == nil {
			t.Errorf("not a sample: %q", line)
			continue
		}
		value, err := strconv.ParseFloat(match[2], 64)
		if err != nil {
			t.Errorf("not a value: %q", line)
		}
		if _, twice := samples[match[1]]; twice {
			t.Errorf("twice: %q", line)
		}
		samples[match[1]] = value
	}
	return samples
}

func TestMetricsAreForWhoHasTheToken(t *testing.T) {
	t.Parallel()
	open := newTestServer(t, "METRICS_TOKEN="+testMetricsToken)
	stranger := open.anonymous()
	for _, given := range []string{"", "Bearer", "Bearer ", "Bearer " + testMetricsToken + "x", "Bearer " + testMetricsToken[1:], "Basic " + testMetricsToken, testMetricsToken, "Bearer " + open.signUp("Admin").token} {
		if given != "" {
			stranger.with("Authorization", given)
		}
		stranger.get("/metrics").problem(http.StatusUnauthorized, "unauthenticated")
	}
	for _, given := range []string{"Bearer ", "bearer "} {
		got := stranger.with("Authorization", given+testMetricsToken).get("/metrics").want(200)
		if media := got.header.Get("Content-Type"); media != expositionMedia {
			t.Errorf("got %q", media)
		}
		if !bytes.Contains(got.body, []byte("\ntaskflow_http_requests_in_flight 1\n")) {
			t.Errorf("the scrape is not in flight:\n%s", got.body)
		}
	}
	stranger.with("Authorization", "Bearer "+testMetricsToken).get("/metrics?x=1").problem(http.StatusBadRequest, "bad_parameter")
	worker := httptest.NewServer(open.workerHandler())
	defer worker.Close()
	open.http.URL, worker.URL = worker.URL, open.http.URL
	stranger.get("/metrics").problem(http.StatusUnauthorized, "unauthenticated")
	stranger.with("Authorization", "Bearer "+testMetricsToken).get("/metrics").want(200)
	open.http.URL = worker.URL

	closed := newTestServer(t)
	for _, given := range []string{"", "Bearer ", "Bearer " + testMetricsToken} {
		there, nowhere := closed.anonymous(), closed.anonymous()
		if given != "" {
			there, nowhere = there.with("Authorization", given), nowhere.with("Authorization", given)
		}
		a, b := there.get("/metrics"), nowhere.get("/metricz")
		a.body = bytes.ReplaceAll(a.body, []byte("/metrics"), []byte("/metricz"))
		wantSame(t, a, b)
	}
}

func TestTheMetricsAddressNeedsNoToken(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	own := httptest.NewServer(ts.metricsHandler())
	defer own.Close()
	for path, want := range map[string]int{"/metrics": 200, "/": 404, "/health": 404, "/api/v1/me": 404} {
		resp, err := http.Get(own.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: got %d, want %d", path, resp.StatusCode, want)
		}
	}
}

func TestAnExpositionIsEscaped(t *testing.T) {
	t.Parallel()
	e := &exposition{}
	e.family("a", "gauge", "back\\slash\nand line")
	e.sample(1.5, "label", "quote\" back\\slash\nline \xff")
	if want := "# HELP a back\\\\slash\\nand line\n# TYPE a gauge\na{label=\"quote\\\" back\\\\slash\\nline \ufffd\"} 1.5\n"; string(e.text) != want {
		t.Errorf("got %q, want %q", e.text, want)
	}
	for value, want := range map[float64]string{0: "0", 1: "1", -3: "-3", 1e15: "1000000000000000", 0.00025: "0.00025", 1e300: "1e+300"} {
		if got := formatValue(value); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
