package e2e

import (
	"context"
	"os/exec"
	"testing"
)

// TestStreamInABrowser has a real browser follow a project with EventSource through a network that
// breaks: stream.mjs writes meanwhile, and compares what the page has with what the service has.
func TestStreamInABrowser(t *testing.T) {
	installed(t, "playwright-core/package.json")
	base := startService(t)
	ctx, cancel := context.WithTimeout(t.Context(), pageLimit)
	defer cancel()
	page := exec.CommandContext(ctx, node(t), "stream.mjs", base, chromium(t))
	page.WaitDelay = stopLimit // the browser ends by itself when the script is killed
	out, err := page.CombinedOutput()
	if err != nil {
		t.Errorf("stream.mjs: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}
