package e2e

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestAccountPageWorksInABrowser follows the links of mails that a real process sends: account.mjs
// confirms an address, sets a forgotten password and accepts invitations.
func TestAccountPageWorksInABrowser(t *testing.T) {
	installed(t, "playwright-core/package.json")
	installed(t, "axe-core/package.json")
	base := startService(t)
	ctx, cancel := context.WithTimeout(t.Context(), pageLimit)
	defer cancel()
	mails := filepath.Join(filepath.Dir(databaseFile(t)), "mails")
	page := exec.CommandContext(ctx, node(t), "account.mjs", base, chromium(t), mails, t.ArtifactDir())
	page.WaitDelay = stopLimit // the browser ends by itself when the script is killed
	out, err := page.CombinedOutput()
	if err != nil {
		t.Errorf("account.mjs: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}
