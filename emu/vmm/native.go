package vmm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vpclab/vpclab/emu/qmp"
)

// QEMU's own live migration, as both ends are steered by QMP. The ends agree on
// one thing beside the stream: which of two QEMUs may run. A source that fails
// before it has finished lets its VM go on by itself, so a target goes on only
// when the source has said that it never will any more ([Outgoing.Run] has
// returned); and a source that has finished goes on only when it is told to.

// Native tells whether an algorithm is one of Modes.
func Native(algorithm string) bool { return slices.Contains(Modes, algorithm) }

// Late tells whether a mode lets the VM run at its new host while pages are
// missing there: from then on it is lost when either host is.
func Late(mode string) bool { return mode == PostCopy || mode == PostCopyPreempt }

// ErrDiverged is in the error of a migration that was given up because it did
// not come to its end within its limit: a result, and no fault of anybody.
var ErrDiverged = errors.New("did not converge")

// QEMU's parameters by their names in QMP, with what QEMU takes.
const (
	leastBandwidth   = 1 << 12 // bytes/s; QEMU takes less, and then never ends
	mostDowntime     = 2000 * time.Second
	mostChannels     = 255
	mostZstdLevel    = 20
	leastXBZRLECache = 4 << 10
	mostRounds       = 1000
)

// Check tells what of the parameters QEMU would refuse.
func (p Parameters) Check() error {
	within := func(name string, v, lo, hi int64) error {
		if v == 0 || v >= lo && v <= hi {
			return nil
		}
		return fmt.Errorf("%s %d: want %d to %d", name, v, lo, hi)
	}
	var power error
	if c := p.XBZRLECache; c > 0 && c&(c-1) != 0 {
		power = fmt.Errorf("xbzrle-cache-size %d: want a power of two", c)
	}
	if p.DowntimeLimit < 0 || p.DowntimeLimit > mostDowntime {
		power = errors.Join(power, fmt.Errorf("downtime-limit %v: want up to %v", p.DowntimeLimit, mostDowntime))
	}
	return errors.Join(power,
		within("max-bandwidth", p.MaxBandwidth, leastBandwidth, 1<<50),
		within("multifd-channels", int64(p.Channels), 1, mostChannels),
		within("multifd-zstd-level", int64(p.ZstdLevel), 1, mostZstdLevel),
		within("xbzrle-cache-size", p.XBZRLECache, leastXBZRLECache, 1<<40),
		within("cpu-throttle-initial", int64(p.ThrottleBegin), 1, 99),
		within("cpu-throttle-increment", int64(p.ThrottleStep), 1, 99),
		within("rounds before post-copy", int64(p.PostCopyRounds), 1, mostRounds))
}

// defaultDowntime is QEMU's downtime-limit.
const defaultDowntime = 300 * time.Millisecond

// downtime is the downtime-limit.
func (p Parameters) downtime() time.Duration {
	if p.DowntimeLimit == 0 {
		return defaultDowntime
	}
	return p.DowntimeLimit
}

// rounds are those of pre-copy before post-copy.
func (p Parameters) rounds() int { return max(1, p.PostCopyRounds) }

// capabilities are all that a mode may have; those that it has are true. A
// QEMU keeps what an earlier migration has set, so each is set or cleared.
func capabilities(mode string, switchover bool) map[string]bool {
	return map[string]bool{
		"events":                  true,
		"xbzrle":                  mode == XBZRLE,
		"multifd":                 mode == Multifd || mode == MultifdZstd,
		"postcopy-ram":            Late(mode),
		"postcopy-blocktime":      Late(mode),
		"postcopy-preempt":        mode == PostCopyPreempt,
		"auto-converge":           mode == AutoConverge,
		"pause-before-switchover": switchover,
		// Of package vmm's own way, and of others:
		"x-ignore-shared": false,
		"return-path":     false, // a source that waits for nothing has finished when all is sent
	}
}

// parameters are what is not QEMU's default; those of a mode that is not this one
// mean nothing to it.
func (p Parameters) parameters(mode string) map[string]any {
	set := map[string]any{
		"downtime-limit":         p.downtime().Milliseconds(),
		"max-bandwidth":          int64(128 << 20),
		"multifd-channels":       2,
		"multifd-compression":    "none",
		"multifd-zstd-level":     1,
		"xbzrle-cache-size":      int64(64 << 20),
		"cpu-throttle-initial":   20,
		"cpu-throttle-increment": 10,
		// 0: what it has measured. One that was held has set it.
		"avail-switchover-bandwidth": 0,
	}
	if mode == MultifdZstd {
		set["multifd-compression"] = "zstd"
	}
	for name, v := range map[string]int64{
		"max-bandwidth": p.MaxBandwidth, "multifd-channels": int64(p.Channels), "multifd-zstd-level": int64(p.ZstdLevel),
		"xbzrle-cache-size": p.XBZRLECache, "cpu-throttle-initial": int64(p.ThrottleBegin), "cpu-throttle-increment": int64(p.ThrottleStep),
	} {
		if v != 0 {
			set[name] = v
		}
	}
	return set
}

// Configure has a QEMU, at either end, migrate in a mode. Both are told the same
// before one listens and the other begins. switchover has the source stand before
// the last of the memory goes, until it is told to go on.
func Configure(ctx context.Context, m *qmp.Client, mode string, p Parameters, switchover bool) error {
	if !Native(mode) {
		return fmt.Errorf("QEMU has no mode of migration %q: there are %s", mode, strings.Join(Modes, ", "))
	}
	if err := p.Check(); err != nil {
		return err
	}
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	var set []capability
	for name, state := range capabilities(mode, switchover) {
		set = append(set, capability{name, state})
	}
	if err := m.Execute(ctx, "migrate-set-capabilities", map[string]any{"capabilities": set}, nil); err != nil {
		return err
	}
	return m.Execute(ctx, "migrate-set-parameters", p.parameters(mode), nil)
}
