package guest

import (
	"fmt"
	"sort"
	"strings"
	"time"
)

// Workloads by the names of scenario files.
const (
	TPCW        = "tpcw"        // web shop: Tomcat and MySQL in one VM
	KernelBuild = "kernelbuild" // compiles Linux
	SPECjbb     = "specjbb"     // Java server, all in memory
	MMuncher    = "mmuncher"    // writes half its memory without rest (Clark et al., NSDI 2005)
	Idle        = "idle"
	Trace       = "trace" // plays recorded writes
)

// profile is what a workload of 1 GiB is. CloudNet prints five quantities of
// which the rest follows (Wood et al., ToN 23(5), 2015): zero pages, duplicates,
// sizes of deltas, hot set, and how the set of written pages grows with time.
// calibration_test.go holds each against the printed figure.
type profile struct {
	// zero is the share of pages that hold zeros at the start (Fig. 13a).
	zero float64
	// twice is the share of memory, without zero pages, that is found to be
	// there already by who looks at aligned blocks of 4096, 2048, … 128 bytes
	// (Figs. 5 and 19); each includes those before.
	twice [6]float64
	// shifted is the share of pages whose content is elsewhere too, at no
	// block's boundary: only content-defined chunks find it (Fig. 19, Rabin).
	shifted float64
	// near is how far away, as a share of memory, the other copy is: the
	// distribution's value at 1, 10, 25, 50 and 100 % (Fig. 13b).
	near [5]float64
	// textures are the shares of pages by texture: records, text, code, packed.
	// Written pages have no records.
	textures [len(textures)]float64
	// deltas are how many bytes of a page a write replaces (Fig. 6).
	deltas []deltaPoint
	// spread is the share of the written pages whose replaced bytes are not in
	// one piece but all over the page.
	spread float64
	// sweeps are the sets of pages that are written again and again, each page
	// once a period. Their sum at time t is the curve of unique dirty pages
	// (Figs. 2, 7, 12 and Table II).
	sweeps []sweep
	// sway is by how much the part of a sweep that is in use shrinks for a
	// while and grows again (Fig. 7's tail).
	sway float64
	// reads is how many pages a second are read and checked, anywhere.
	reads float64
	tick  time.Duration
}

type sweep struct {
	mib    float64
	period time.Duration
}

// deltaPoint: share of the written pages have at most size bytes replaced.
type deltaPoint struct {
	size  int
	share float64
}

var profiles = map[string]profile{
	TPCW: {
		zero:     0.11,
		twice:    [6]float64{0.062, 0.135, 0.175, 0.205, 0.222, 0.270},
		shifted:  0.07,
		near:     [5]float64{0.42, 0.72, 0.86, 0.96, 1},
		textures: [...]float64{0.35, 0.40, 0.15, 0.10},
		deltas: []deltaPoint{{64, 0.20}, {100, 0.28}, {200, 0.33}, {500, 0.38}, {1000, 0.40}, {2000, 0.43},
			{3000, 0.45}, {3500, 0.47}, {3750, 0.50}, {4000, 0.91}, {4096, 1}},
		spread: 0.8,
		sweeps: []sweep{
			{3, 60 * time.Millisecond}, {11, 180 * time.Millisecond}, {18, 500 * time.Millisecond},
			{23, 1300 * time.Millisecond}, {5, 10 * time.Second}, {36, 80 * time.Second},
		},
		sway:  0.45,
		reads: 40,
		tick:  5 * time.Millisecond,
	},
	KernelBuild: {
		zero:     0.05,
		twice:    [6]float64{0.016, 0.066, 0.098, 0.127, 0.142, 0.170},
		shifted:  0.08,
		near:     [5]float64{0.22, 0.68, 0.84, 0.95, 1},
		textures: [...]float64{0.52, 0.42, 0.06, 0},
		deltas: []deltaPoint{{64, 0.25}, {100, 0.33}, {200, 0.44}, {500, 0.52}, {1000, 0.56}, {2000, 0.61},
			{3000, 0.79}, {3500, 0.90}, {3750, 0.95}, {4000, 1}},
		spread: 0.6,
		sweeps: []sweep{
			{46, 160 * time.Millisecond}, {11, 260 * time.Millisecond}, {10, 600 * time.Millisecond},
			{17, 1700 * time.Millisecond}, {3, 6 * time.Second}, {20, 35 * time.Second}, {150, 150 * time.Second},
		},
		sway:  0.65,
		reads: 40,
		tick:  5 * time.Millisecond,
	},
	SPECjbb: {
		zero:     0.63,
		twice:    [6]float64{0.005, 0.015, 0.030, 0.040, 0.045, 0.055},
		shifted:  0.02,
		near:     [5]float64{0.30, 0.80, 0.90, 0.97, 1},
		textures: [...]float64{0.40, 0.30, 0.20, 0.10},
		deltas: []deltaPoint{{64, 0.28}, {200, 0.50}, {500, 0.56}, {1000, 0.60}, {2000, 0.64}, {3000, 0.68},
			{3500, 0.74}, {4000, 0.98}, {4096, 1}},
		spread: 0.8,
		sweeps: []sweep{
			{60, 160 * time.Millisecond}, {16, 250 * time.Millisecond}, {8, 330 * time.Millisecond},
			{5, 700 * time.Millisecond}, {5, 10 * time.Second}, {8, 70 * time.Second},
		},
		sway:  0.12,
		reads: 40,
		tick:  5 * time.Millisecond,
	},
	MMuncher: {
		zero:     0.40,
		near:     [5]float64{0.30, 0.80, 0.90, 0.97, 1},
		textures: [...]float64{0, 0.2, 0.2, 0.6},
		deltas:   []deltaPoint{{4096, 0}, {4096, 1}},
		sweeps:   []sweep{{512, 4 * time.Second}},
		reads:    40,
		tick:     5 * time.Millisecond,
	},
	Idle: {
		zero:     0.60,
		twice:    [6]float64{0.01, 0.03, 0.05, 0.07, 0.08, 0.10},
		near:     [5]float64{0.30, 0.80, 0.90, 0.97, 1},
		textures: [...]float64{0.40, 0.40, 0.15, 0.05},
		deltas:   []deltaPoint{{64, 0.5}, {1000, 1}},
		spread:   0.5,
		sweeps:   []sweep{{0.5, 2 * time.Second}, {2, 30 * time.Second}},
		reads:    5,
		tick:     50 * time.Millisecond,
	},
}

// Workloads are the names that a Spec may have.
func Workloads() []string {
	names := []string{Trace}
	for name := range profiles {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// Check tells what is wrong with a Spec.
func (s Spec) Check() error {
	_, known := profiles[s.Workload]
	switch {
	case s.Memory < minMemory || s.Memory%PageSize != 0 || s.Memory > maxMemory:
		return fmt.Errorf("VM %s: memory of %d bytes: want a multiple of %d from %d on", s.Name, s.Memory, PageSize, minMemory)
	case s.Disk != 0 && (s.Disk < minDisk || s.Disk%PageSize != 0 || s.Disk > maxDisk):
		return fmt.Errorf("VM %s: disk of %d bytes: want 0 or a multiple of %d from %d on", s.Name, s.Disk, PageSize, minDisk)
	case !known && s.Workload != Trace:
		return fmt.Errorf("VM %s: workload %q: want one of %s", s.Name, s.Workload, strings.Join(Workloads(), ", "))
	case (s.Workload == Trace) != (s.Trace != ""):
		return fmt.Errorf("VM %s: a trace file is for workload %s, and that wants one", s.Name, Trace)
	case s.Scale < 0 || s.Scale > 64:
		return fmt.Errorf("VM %s: scale %g: want 0 to 64", s.Name, s.Scale)
	case s.Port < 0 || s.Port > 65535:
		return fmt.Errorf("VM %s: port %d", s.Name, s.Port)
	}
	return nil
}

// minMemory has room for each set of pages of a workload.
const minMemory = 1 << 20

// scale is by what the published workload of 1 GiB is made smaller.
func (s Spec) scale() float64 {
	if s.Scale > 0 {
		return s.Scale
	}
	return float64(s.Memory) / (1 << 30)
}
