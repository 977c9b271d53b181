package plots

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLook leaves drawn figures in the folder that VPCLAB_LOOK names, for
// somebody who wants to look at them.
func TestLook(t *testing.T) {
	dir := os.Getenv("VPCLAB_LOOK")
	if dir == "" {
		t.Skip("set VPCLAB_LOOK to a folder to have figures drawn there")
	}
	for name, run := range map[string]syntheticRun{
		"paper": paperRun(),
		"quick": {sites: []int{3}, tenants: []int{2}, machines: []int{2}, trials: 3, largestMatrix: 1000, flows: []int{4}, raceTrials: 1, services: true, moves: quickMoves(), failures: 1},
		"moves": {moves: allMoves()},
		"large": {sites: []int{8}, tenants: []int{5, 10, 20}, machines: []int{1, 2}, trials: 7, largestMatrix: 1000, noFirewall: true},
	} {
		s := run.write(t)
		_, err := s.Judge("vpc-setup", []string{"vpn.setup.first_packet.p50 < 1s", "setup.leaks == 0", "vpn.rules < 0.5 * firewall.rules"})
		require.NoError(t, err)
		require.NoError(t, s.Finish("fail", nil))
		_, err = Draw(s.Dir(), nil)
		require.NoError(t, err)
		require.NoError(t, Report(s.Dir()))
		out, err := exec.Command("cp", "-rT", s.Dir(), dir+"/"+name).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}
