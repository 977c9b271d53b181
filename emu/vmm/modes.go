package vmm

import "time"

// Modes of QEMU's own live migration, by the names of scenario files. They stand
// beside the algorithms of package migrate, which move a QEMU guest as they move
// any other.
const (
	PreCopy         = "qemu-pre-copy"
	XBZRLE          = "qemu-xbzrle"            // pre-copy with deltas against a cache of pages
	Multifd         = "qemu-multifd"           // pre-copy over several connections
	MultifdZstd     = "qemu-multifd-zstd"      // the same, compressed
	PostCopy        = "qemu-post-copy"         // one round of pre-copy, then post-copy
	PostCopyPreempt = "qemu-post-copy-preempt" // the same, with a connection of its own for pages asked for
	AutoConverge    = "qemu-auto-converge"     // pre-copy that slows the guest down until it converges
)

// Modes are all of them.
var Modes = []string{PreCopy, XBZRLE, Multifd, MultifdZstd, PostCopy, PostCopyPreempt, AutoConverge}

// Parameters of QEMU's own migration, by QMP's names. Zero values are QEMU's.
type Parameters struct {
	MaxBandwidth   int64         // max-bandwidth, bytes/s; QEMU's default is 128 MiB/s
	DowntimeLimit  time.Duration // downtime-limit; QEMU's default is 300 ms
	Channels       int           // multifd-channels; default 2
	ZstdLevel      int           // multifd-zstd-level; default 1
	XBZRLECache    int64         // xbzrle-cache-size, bytes; default 64 MiB
	ThrottleBegin  int           // cpu-throttle-initial, per cent; default 20
	ThrottleStep   int           // cpu-throttle-increment, per cent; default 10
	PostCopyRounds int           // rounds of pre-copy before post-copy; default 1
}
