package e2e

import (
	"context"
	"os/exec"
	"testing"
)

// TestWebhooksAreVerifiedByTheStandardsLibrary has a real process send webhooks to webhooks.mjs, which
// verifies them, retries and rotated secrets too, by a library that others wrote.
func TestWebhooksAreVerifiedByTheStandardsLibrary(t *testing.T) {
	installed(t, "standardwebhooks/package.json")
	base := startService(t)
	ctx, cancel := context.WithTimeout(t.Context(), pageLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, node(t), "webhooks.mjs", base).CombinedOutput()
	if err != nil {
		t.Errorf("webhooks.mjs: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}
