package scenarios

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/vmm"
	"github.com/vpclab/vpclab/topo"
)

const (
	realShop = "{kind: migration, vm: shop, to: illinois/1, warm: 1ms, trials: 1, warmup: 0, "
	stays    = "guest: qemu, algorithm: [qemu-pre-copy, qemu-multifd-zstd]"
)

// TestAVMThatStaysIsAResult and no failure: what it took is there, and no time that
// would say that it has moved.
func TestAVMThatStaysIsAResult(t *testing.T) {
	c := &testCloud{stays: vmm.PreCopy}
	v, got := runMigration(t, realShop+"return: 1, qemu: {max-bandwidth: 800mbit, downtime-limit: 50ms, multifd-channels: 4, within: 90s}, vary: {"+stays+"}, expect: [algorithm=qemu-pre-copy.leg=out-1.migration.converged == 0, algorithm=qemu-multifd-zstd.migration.converged == 1, leg=out-1.migration.bytes > 0]}", c)
	require.True(t, v.Pass, v.Lines)
	require.Len(t, c.moves, 1+2, "one that has stayed does not move back")
	for _, m := range c.moves {
		require.Equal(t, vmm.Parameters{MaxBandwidth: 100e6, DowntimeLimit: 50 * time.Millisecond, Channels: 4}, m.qemu)
		require.Equal(t, 90*time.Second, m.within)
	}
	set := " guest=qemu leg=out-1"
	require.ElementsMatch(t, []float64{0, 1}, got["migration.converged"+set])
	for _, metric := range []string{"migration.total", "migration.pause", "migration.verified", "migration.memory", "migration.handover"} {
		require.Len(t, got[metric+set], 1, metric)
	}
	require.Len(t, got["migration.bytes direction=out"+set], 2)
	require.Equal(t, []float64{99}, got["qemu.throttle"+set])
	require.ElementsMatch(t, []float64{2, 100}, got["migration.rounds"+set])
	require.Len(t, got["round.sent guest=qemu leg=out-1 round=31"], 1)
	require.Empty(t, got["round.sent guest=qemu leg=out-1 round=32"], "those beyond are in the trial's file")
}

// TestQEMUsWaysAreForItsGuests alone.
func TestQEMUsWaysAreForItsGuests(t *testing.T) {
	for experiment, want := range map[string]string{
		realShop + "vary: {algorithm: [vpclab, qemu-multifd]}}":                          "qemu-multifd is a mode of QEMU's own, and the VM is no QEMU guest",
		realShop + "vary: {guest: [qemu, process], algorithm: qemu-multifd}}":            "qemu-multifd is a mode of QEMU's own, and the VM is no QEMU guest",
		realShop + "expect: [migration.converged == 1]}":                                 "no sample of migration.converged",
		realShop + "vary: {guest: qemu, algorithm: qemu-multi-fd}}":                      "did you mean qemu-multifd?",
		realShop + "qemu: {within: 5s}}":                                                 "qemu is for migrations by QEMU itself, and none of the algorithms is",
		realShop + "qemu: {within: 5s}, vary: {guest: qemu, algorithm: [vpclab, xen5]}}": "qemu is for migrations by QEMU itself, and none of the algorithms is",
	} {
		_, _, err := Parse("move.vpclab.yml", []byte(moveScenario+"  - "+experiment+"\n"))
		require.ErrorContains(t, err, want, experiment)
	}
}

func TestHowLongAMigrationMayTakeToConverge(t *testing.T) {
	node := &topo.Node{Guest: &topo.Guest{Memory: 1 << 30}}
	for rate, want := range map[string]time.Duration{"": time.Minute, "10gbit": time.Minute, "100mbit": 429 * time.Second} {
		r := &migrationTrial{migrating: &migrating{}, pt: point{paramRate: rate}}
		require.InDelta(t, want.Seconds(), r.convergeIn(node).Seconds(), 1, rate)
	}
}
