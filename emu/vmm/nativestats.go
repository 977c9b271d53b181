package vmm

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/qmp"
)

// States of a migration, as query-migrate and the event MIGRATION have them.
const (
	statusLate      = "postcopy-active"
	statusPaused    = "postcopy-paused" // its connection is lost
	statusSetup     = "postcopy-recover-setup"
	statusRecover   = "postcopy-recover" // there is another
	statusSwitch    = "pre-switchover"
	statusCompleted = "completed"
	statusFailed    = "failed"
	statusCancelled = "cancelled"
)

// migrationInfo is what query-migrate says (QEMU's qapi/migration.json,
// MigrationInfo); times are milliseconds.
type migrationInfo struct {
	Status           string
	TotalTime        int64  `json:"total-time"`
	SetupTime        int64  `json:"setup-time"`
	Downtime         int64  `json:"downtime"`
	ExpectedDowntime *int64 `json:"expected-downtime"`
	ErrorDesc        string `json:"error-desc"`
	Throttle         int    `json:"cpu-throttle-percentage"`
	Blocktime        int64  `json:"postcopy-blocktime"`
	RAM              ramInfo
	XBZRLE           struct {
		Bytes, Pages, Overflow int64
		CacheMiss              int64 `json:"cache-miss"`
	} `json:"xbzrle-cache"`
	SocketAddress []json.RawMessage `json:"socket-address"`
}

// ramInfo is MigrationRAMInfo.
type ramInfo struct {
	Transferred, Remaining, Total int64
	Normal, Duplicate             int64 // pages: whole ones, and zeros
	PageSize                      int64 `json:"page-size"`
	DirtyRate                     int64 `json:"dirty-pages-rate"` // pages/s
	Passes                        int   `json:"dirty-sync-count"`
	Requests                      int64 `json:"postcopy-requests"`
	Precopy                       int64 `json:"precopy-bytes"`
	Downtime                      int64 `json:"downtime-bytes"`
	Postcopy                      int64 `json:"postcopy-bytes"`
}

// sent are pages that were sent.
func (r ramInfo) sent() int { return int(r.Normal + r.Duplicate) }

// left are pages that are to be sent.
func (r ramInfo) left() int {
	if r.PageSize == 0 {
		return 0
	}
	return int(r.Remaining / r.PageSize)
}

func query(ctx context.Context, m *qmp.Client) (i migrationInfo, err error) {
	err = m.Execute(ctx, "query-migrate", nil, &i)
	return i, err
}

// failure is why a migration has failed.
func (i migrationInfo) failure(what string) error {
	if i.ErrorDesc != "" {
		return fmt.Errorf("%s: QEMU's migration is %s: %s", what, i.Status, i.ErrorDesc)
	}
	return fmt.Errorf("%s: QEMU's migration is %s", what, i.Status)
}

// listensAt is where an incoming QEMU listens on TCP.
func (i migrationInfo) listensAt() (netip.AddrPort, error) {
	for _, raw := range i.SocketAddress {
		var a struct{ Host, Port string }
		if json.Unmarshal(raw, &a) == nil && a.Port != "" {
			return netip.ParseAddrPort(net.JoinHostPort(a.Host, a.Port))
		}
	}
	return netip.AddrPort{}, fmt.Errorf("QEMU does not say where it listens: %s", i.SocketAddress)
}

// Stats are what QEMU says of a migration beside what every migration has.
type Stats struct {
	// Downtime is QEMU's own word. It leaves out how long the VM stands at either
	// end beside the stream; Report.Pause has all of it.
	Downtime  time.Duration
	Setup     time.Duration
	Throttle  int           // the most by which the VM was slowed down, per cent
	DirtyRate int64         // pages a second, as last measured before it stood
	Zero      int64         // of the pages sent, those of zeros
	Blocktime time.Duration // post-copy: how long a virtual CPU stood at missing pages
	// Bytes of the stream before the pause, in it, and after it.
	Precopy, InPause, Postcopy int64
	XBZRLE                     struct{ Pages, Bytes, Overflow, Misses int64 }
}

// ledger turns what QEMU says now and then into rounds.
type ledger struct {
	rounds []migrate.Round
	last   ramInfo // when the last round began
	stats  Stats
}

// pass ends a round and begins the next one: the dirty pages were gathered at t.
// i is what QEMU said right after it.
func (l *ledger) pass(t event.Mono, i migrationInfo, paused bool) {
	l.end(t, i)
	r := migrate.Round{Began: t, ToSend: i.RAM.left(), Paused: paused}
	if len(l.rounds) == 0 {
		l.last = ramInfo{} // nothing had been sent; some has, when QEMU answers
	}
	l.rounds = append(l.rounds, r)
	if !paused {
		l.see(i)
	}
}

// end ends the round that is under way, if there is one.
func (l *ledger) end(t event.Mono, i migrationInfo) {
	if n := len(l.rounds); n > 0 {
		r := &l.rounds[n-1]
		r.Ended = t
		if n == 1 && i.RAM.PageSize > 0 {
			r.ToSend = int(i.RAM.Total / i.RAM.PageSize)
		}
		r.Sent = max(0, i.RAM.sent()-l.last.sent())
		r.Bytes = max(0, i.RAM.Transferred-l.last.Transferred)
		// What is dirty now and was not left over was dirtied meanwhile.
		r.Dirtied = max(0, i.RAM.left()-max(0, r.ToSend-r.Sent))
	}
	l.last = i.RAM
}

// see keeps what is only said while it goes on.
func (l *ledger) see(i migrationInfo) {
	l.stats.Throttle = max(l.stats.Throttle, i.Throttle)
	if i.RAM.DirtyRate > 0 {
		l.stats.DirtyRate = i.RAM.DirtyRate
	}
}

// close is what all of it was.
func (l *ledger) close(t event.Mono, i migrationInfo) {
	l.end(t, i)
	l.see(i)
	l.tellPause(i.RAM)
	l.stats.Downtime = time.Duration(i.Downtime) * time.Millisecond
	l.stats.Setup = time.Duration(i.SetupTime) * time.Millisecond
	l.stats.Zero = i.RAM.Duplicate
	l.stats.Precopy, l.stats.InPause, l.stats.Postcopy = i.RAM.Precopy, i.RAM.Downtime, i.RAM.Postcopy
	l.stats.XBZRLE.Pages, l.stats.XBZRLE.Bytes = i.XBZRLE.Pages, i.XBZRLE.Bytes
	l.stats.XBZRLE.Overflow, l.stats.XBZRLE.Misses = i.XBZRLE.Overflow, i.XBZRLE.CacheMiss
}

// tellPause divides what was sent between the last two rounds. QEMU answers no
// question while it sends the last of the memory of a VM that stands, so both are
// accounted to the round before; but it counts the bytes (not those of multifd,
// which stay there).
func (l *ledger) tellPause(r ramInfo) {
	n := len(l.rounds)
	if n == 0 || !l.rounds[n-1].Paused || r.Postcopy > 0 {
		return
	}
	last := &l.rounds[n-1]
	if n > 1 && last.Bytes < r.Downtime {
		before := &l.rounds[n-2]
		bytes := min(r.Downtime-last.Bytes, before.Bytes)
		pages := min(int(bytes/pageSize), before.Sent)
		before.Bytes, last.Bytes = before.Bytes-bytes, last.Bytes+bytes
		before.Sent, last.Sent = before.Sent-pages, last.Sent+pages
	}
	last.ToSend, last.Dirtied, last.Final, last.FinalBytes = last.Sent, 0, last.Sent, last.Bytes
}

// prepaged are pages that came after the VM ran elsewhere, and before it stood at
// them: all of the last round but those asked for.
func (l *ledger) prepaged() int {
	if l.stats.Postcopy == 0 || len(l.rounds) == 0 {
		return 0
	}
	return max(0, l.rounds[len(l.rounds)-1].Sent-int(l.last.Requests))
}
