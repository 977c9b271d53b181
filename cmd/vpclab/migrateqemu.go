package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/topo"
)

// qemuKeys are the keys of a scenario file's `qemu`, as the flag has them.
var qemuKeys = map[string]func(q *topo.QEMU, text string) error{
	"max-bandwidth": func(q *topo.QEMU, text string) (err error) { q.MaxBandwidth, err = topo.ParseRate(text); return err },
	"downtime-limit": func(q *topo.QEMU, text string) (err error) {
		q.DowntimeLimit, err = topo.ParseDuration(text)
		return err
	},
	"multifd-channels":   func(q *topo.QEMU, text string) (err error) { q.MultifdChannels, err = strconv.Atoi(text); return err },
	"multifd-zstd-level": func(q *topo.QEMU, text string) (err error) { q.MultifdZstdLevel, err = strconv.Atoi(text); return err },
	"xbzrle-cache-size":  func(q *topo.QEMU, text string) (err error) { q.XBZRLECacheSize, err = topo.ParseSize(text); return err },
	"cpu-throttle-initial": func(q *topo.QEMU, text string) (err error) {
		q.CPUThrottleInitial, err = strconv.Atoi(text)
		return err
	},
	"cpu-throttle-increment": func(q *topo.QEMU, text string) (err error) {
		q.CPUThrottleIncrement, err = strconv.Atoi(text)
		return err
	},
	"rounds": func(q *topo.QEMU, text string) (err error) { q.Rounds, err = strconv.Atoi(text); return err },
	"within": func(q *topo.QEMU, text string) (err error) { q.Within, err = topo.ParseDuration(text); return err },
}

// withinByHand is how long a migration by QEMU itself may take to converge where
// nobody says: somebody waits for it.
const withinByHand = 2 * time.Minute

// ofQEMU takes what the flag --qemu says into a request.
func ofQEMU(req *lab.MigrateRequest, said map[string]string) error {
	q := topo.QEMU{Within: topo.Duration(withinByHand)}
	names := slices.Sorted(maps.Keys(qemuKeys))
	for _, name := range slices.Sorted(maps.Keys(said)) {
		set := qemuKeys[name]
		if set == nil {
			return usageError{fmt.Errorf("--qemu: there is no key %q: there are %s", name, strings.Join(names, ", "))}
		}
		if err := set(&q, said[name]); err != nil {
			return usageError{fmt.Errorf("--qemu: %s: %w", name, err)}
		}
	}
	req.QEMU, req.Within = lab.QEMUParameters(&q), q.Within.Std()
	return nil
}
