package plots

import (
	"bytes"
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/plot/vg"

	"github.com/vpclab/vpclab/metrics"
)

var sharedRoot string

func TestMain(m *testing.M) {
	// Stores flush every file, which a busy disk makes slow; what is tested
	// here is not the disk.
	if _, err := os.Stat("/dev/shm"); err == nil {
		_ = os.Setenv("TMPDIR", "/dev/shm")
	}
	if raceDetector {
		pngDPI = 40
	}
	root, err := os.MkdirTemp("", "plots")
	if err != nil {
		panic(err)
	}
	sharedRoot = root
	code := m.Run()
	_ = os.RemoveAll(root)
	os.Exit(code)
}

// paperStore is one written paperRun for all tests; they only read it.
var paperStore = sync.OnceValue(func() *metrics.Store {
	return paperRun().writeTo(&testing.T{}, sharedRoot)
})

// layOutAll lays out every figure of a store's run without files.
func layOutAll(t *testing.T, s *metrics.Store) map[string]*page {
	t.Helper()
	d, err := load(s.Dir())
	require.NoError(t, err)
	pages := map[string]*page{}
	for _, k := range kinds {
		f, p, err := k.layOut(d)
		require.NoError(t, err, k.name)
		require.Equal(t, p == nil, f.Reason != "", k.name)
		if p != nil {
			pages[k.name] = p
		}
	}
	return pages
}

// What every figure must say.
var mustSay = map[string][]string{
	"setup-breakdown":     {"time since the request (s)", "share of the whole (%)", "n = 6 trials a bar", "95 % interval", "RT policy", "BGP announce", "program", "first packet", "matrix verified", "2 sites, 1 tenant", "VPN", "firewall"},
	"setup-vs-sites":      {"sites", "time since the request (s)", "n = 6 trials a point", "95 % interval", "VPN, first packet", "firewall, programmed", "2 machines a site, 1 tenant.", "16"},
	"setup-vs-tenants":    {"tenants", "time since the request (s)", "n = 6 trials a point", "95 % interval", "2 sites, 2 machines a site."},
	"rules-vs-vms":        {"VMs in the lab", "rules or entries", "n = 6 trials a point", "n²", "VPN, configuration lines", "VPN, forwarding state", "firewall rules", "512", "10 000"},
	"touched":             {"rules touched", "n = 6 trials a bar", "a VM is added", "a VM moves to another site", "126", "16 sites, 16 tenants"},
	"reachability":        {"sender", "receiver", "leak: 8", "failure: 31", "allowed, reached: 3937", "t4", "n = 1 trial"},
	"join-timeline":       {"time since the probes began (s)", "n = 1 trial", "n = 6 trials", "probe came through", "no answer", "stages, as time since each request", "a: join requested 0.500 s.", "acme-hq-1 → acme-new-1"},
	"reservation-rate":    {"time since the others began (s)", "goodput (Mbit/s)", "with reservation", "without", "8 greedy flows together", "n = 6 trials", "95 % interval", "reserved rate, 15 Mbit/s", "a link of 30 Mbit/s"},
	"reservation-latency": {"greedy TCP flows on the same link", "one-way latency (ms)", "n = 6 trials a point", "with, p99", "without, median"},
	"reservation-failure": {"time since the link failed (s)", "goodput (Mbit/s)", "n = 6 trials", "no probe came through", "beside 8 greedy flows", "reserved rate, 15 Mbit/s"},
	"lan": {"n = 6 trials a value", "95 % interval", "ARP request, answered by its owner", "60 of 60", "0 of 60", "VPLS: 0 duplicates, largest packet 1500 bytes.", "a mute VM, announced: packets lost for", "time (ms)",
		"round trip (ms), open: 95th percentile", "TCP goodput (Gbit/s)", "× plain)", "After a move that nobody announced, until then, 0 of 1800 probes to the VM arrived."},
	"routing-peer":          {"n = 6 trials a row", "95 % interval", "FRR: OSPF, LDP, bgpd", "controller, GoBGP and FRR", "the same 12 pairs", "time (s)", "a core link fails"},
	"migration-summary":     {"data, × CloudNet's", "pause, × CloudNet's", "TPC-W", "kernel build", "50 Mb/s", "1 Gb/s", "n = 6 trials a mark", "vpclab needs less than CloudNet in", "Left of the line is better.", "95 % interval"},
	"migration-timeline":    {"time since the request (s)", "answer (ms)", "VPN join", "VM stands", "disk in step", "CloudNet: the VM stands for", "the trial with the median pause, of n = 6 trials"},
	"migration-pause":       {"bandwidth (Mb/s)", "pause (s)", "SPECjbb", "n = 6 trials a point", "hollow: paper (2011 hardware)", "scale 1/16", "622"},
	"migration-bandwidth":   {"total time (s)", "data sent (MB)", "vpclab", "Xen, 5 iterations", "post-copy", "n = 6 trials a point", "hollow: paper (2011 hardware)", "RTT 0.625 ms"},
	"migration-rtt":         {"round-trip time (ms)", "0.3125", "pause (s)", "100 Mb/s", "n = 6 trials a point"},
	"migration-cuts":        {"less data (%)", "less total time (%)", "less pause (%)", "Smart Stop", "redundancy elimination", "page deltas", "tick: paper (2011 hardware)", "n = 6 trials a bar"},
	"migration-rounds":      {"iteration", "pages left when it ends", "kernel build, 622 Mb/s", "stops: sent while the VM stands", "n = 6 trials", "hollow: paper (2011 hardware)"},
	"migration-round-bytes": {"TPC-W, Xen, 30 iterations", "SPECjbb, Smart Stop", "sent and never sent again", "final", "MB", "n = 6 trials"},
	"post-copy":             {"pages waited for", "99th percentile of waits (s)", "pause (s)", "hybrid", "n = 6 trials a point"},
	"migration-group":       {"4 VMs at the same time.", "memory (GB)", "disk (GB)", "on the wire (GB)", "mean pause (ms)", "all arrive together", "n = 6 trials a bar"},
	"migration-disk":        {"first move", "and back", "CloudNet, cache 10%", "sent of the disk (MB)", "of what a plain copy sends first (%)", "n = 6 trials a bar"},
	"encoders":              {"zip (deflate)", "zstd-1", "lz4", "CPU at the source (% of a core)", "data (MB)", "n = 6 trials a bar"},
	"redundancy":            {"size of a block (bytes)", "cache (% of memory)", "found again (%)", "content-defined", "64", "4096", "paper: 11 and 15"},
	"delta-sizes":           {"size of a page's delta (bytes)", "deltas of at most this size (%)", "kernel build"},
	"delta-savings":         {"iteration 1 (MB)", "saved of later (%)", "tick: paper (2011 hardware)"},
	"real-vms":              {"TPC-W, 100 Mb/s", "mmuncher, 465 Mb/s", "optimiser", "QEMU multifd, zstd", "data (MB)", "pause (ms)", "gap of users (ms)", "n = 6 trials a bar"},
	"guest-prediction":      {"process guest: total time (s)", "QEMU guest", "off by", "calibrated", "n = 6 trials a mark"},
	"false-matches":         {"bits of the hash", "of the memory's blocks", "wrong blocks, verified", "by chance", "10⁶", "0"},
	"operations-timeline":   {"n = 6 trials a mark", "95 % interval", "time since the request, logarithmic", "100 ms", "10 s", "join (2)", "outage (duration)", "24.24 s", "hardware of 2011", "lost 0 of 12 021 probes", "probes of those who talk meanwhile, in one trial", "a: join 0.500 s."},
}

func TestDrawWritesAllFigures(t *testing.T) {
	s := paperStore()
	before := snapshot(t, s.Dir())
	figures, err := Draw(s.Dir(), nil)
	require.NoError(t, err)
	require.Len(t, figures, len(Names()))
	for _, f := range figures {
		require.True(t, f.Drawn(), "%s: %s", f.Name, f.Reason)
		for _, part := range []string{"n = ", "6.1.176", "uml", "monotonic clock", "2026-05-02", "vpclab plot --figure " + f.Name + " results/synthetic/20260502T101112.345Z-3f9c"} {
			require.Contains(t, f.Caption, part, f.Name)
		}
		checkPNG(t, filepath.Join(s.Dir(), f.PNG))
		text := checkSVG(t, filepath.Join(s.Dir(), f.SVG))
		for _, part := range append(mustSay[f.Name], f.Title, "6.1.176", "monotonic clock", "2026-05-02") {
			require.Contains(t, text, part, f.Name)
		}
	}
	for name, data := range snapshot(t, s.Dir()) {
		if old, had := before[name]; had {
			require.Equal(t, old, data, "%s was changed by drawing", name)
		} else {
			require.True(t, strings.HasPrefix(name, "figures/"), "%s is new", name)
		}
	}
}

// snapshot reads the files of a run outside of figures/.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		if !strings.HasPrefix(name, "figures/") {
			files[name] = string(data)
		}
		return err
	}))
	return files
}

func checkPNG(t *testing.T, name string) {
	t.Helper()
	f, err := os.Open(name)
	require.NoError(t, err)
	defer f.Close()
	img, err := png.Decode(f)
	require.NoError(t, err)
	require.Contains(t, []int{7 * pngDPI / 2, 7 * pngDPI}, img.Bounds().Dx(), "3.5 or 7 inches")
}

// checkSVG parses the file and returns the text that it shows, a line an
// element.
func checkSVG(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	in := xml.NewDecoder(bytes.NewReader(data))
	var text []string
	for {
		tok, err := in.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err, name)
		if c, ok := tok.(xml.CharData); ok {
			text = append(text, strings.TrimSpace(string(c)))
		}
	}
	for _, m := range regexp.MustCompile(`font-size:([0-9.]+)px`).FindAllSubmatch(data, -1) {
		size, err := strconv.ParseFloat(string(m[1]), 64)
		require.NoError(t, err)
		require.GreaterOrEqual(t, size, 8.0, "%s has text under 8 points", name)
	}
	require.NotContains(t, string(data), "NaN")
	require.NotContains(t, string(data), "Inf")
	return strings.Join(text, "\n")
}

// Colours are not enough: no two looks of one figure may be the same in grey.
func TestLooksSurviveGrey(t *testing.T) {
	type grey struct {
		marker marker
		dashes string
	}
	for _, lines := range [][]look{
		{vpnLook, vpnSecond, firewallLook, firewallSecond, setsLook},
		{withLook, withSecond, withThird, withoutLook, withoutSecond, withoutThird},
		{reservedLook, othersLook},
		looksOf(algorithms), looksOf(workloads),
	} {
		seen := map[grey]bool{}
		for _, l := range lines {
			var d strings.Builder
			for _, x := range l.dashes {
				d.WriteString(strconv.FormatFloat(float64(x), 'g', -1, 64) + " ")
			}
			g := grey{l.marker, d.String()}
			require.False(t, seen[g])
			seen[g] = true
		}
	}
	for _, list := range [][]string{cutParts, handOvers} {
		seen := map[hatch]bool{}
		for _, id := range list {
			h := algorithmOf(id).look.hatch
			require.False(t, seen[h], "algorithm %s has another's hatch", id)
			seen[h] = true
		}
	}
	for _, ph := range movePhases {
		require.NotNil(t, ph.look.color)
	}
	hatches := map[hatch]bool{}
	for _, s := range setupStages {
		require.False(t, hatches[s.look.hatch], "stage %s has another's hatch", s.name)
		hatches[s.look.hatch] = true
	}
	hatches = map[hatch]bool{}
	for _, s := range systems {
		require.False(t, hatches[s.bar.hatch], "system %s has another's hatch", s.name)
		hatches[s.bar.hatch] = true
	}
}

// looksOf are the looks of a list of algorithms or workloads.
func looksOf[T algorithm | workload](all []T) (looks []look) {
	for _, one := range all {
		switch v := any(one).(type) {
		case algorithm:
			looks = append(looks, v.look)
		case workload:
			looks = append(looks, v.look)
		}
	}
	return looks
}

func TestDrawTwiceIsTheSame(t *testing.T) {
	d, err := load(paperStore().Dir())
	require.NoError(t, err)
	for _, k := range kinds {
		var drawings [2][]byte
		for i := range drawings {
			f, p, err := k.layOut(d)
			require.NoError(t, err)
			drawings[i], err = p.svg(f)
			require.NoError(t, err)
		}
		require.Equal(t, drawings[0], drawings[1], k.name)
	}
}

func TestDrawSaysWhatIsMissing(t *testing.T) {
	s, err := metrics.Create(t.TempDir(), metrics.RunInfo{Scenario: "empty"})
	require.NoError(t, err)
	figures, err := Draw(s.Dir(), nil)
	require.NoError(t, err)
	require.Len(t, figures, len(kinds))
	for _, f := range figures {
		require.False(t, f.Drawn())
		require.NotEmpty(t, f.Reason, f.Name)
		require.NoFileExists(t, filepath.Join(s.Dir(), "figures", f.Name+".svg"))
	}

	small := syntheticRun{sites: []int{3}, tenants: []int{2}, machines: []int{1}, trials: 3, largestMatrix: 10}.write(t)
	pages := layOutAll(t, small)
	require.NotContains(t, pages, "setup-vs-sites")
	require.NotContains(t, pages, "rules-vs-vms")
	require.Contains(t, pages, "setup-breakdown")
	require.Contains(t, strings.Join(pages["setup-breakdown"].subtitle, " "), "too few for a 95"+bound+"% interval")
}

func TestDrawRefusesUnknownFigure(t *testing.T) {
	_, err := Draw(paperStore().Dir(), []string{"touched", "nope"})
	require.ErrorContains(t, err, `there is no figure "nope"; figures are setup-breakdown`)
	_, err = Draw(t.TempDir(), nil)
	require.ErrorContains(t, err, "no run folder")
}

func TestDrawRemovesStaleFigure(t *testing.T) {
	s := syntheticRun{sites: []int{2}, tenants: []int{1}, machines: []int{1}, trials: 1}.write(t)
	stale := filepath.Join(s.Dir(), "figures", "reachability.svg")
	require.NoError(t, os.MkdirAll(filepath.Dir(stale), 0o755))
	require.NoError(t, os.WriteFile(stale, nil, 0o600))
	figures, err := Draw(s.Dir(), []string{"reachability"})
	require.NoError(t, err)
	require.Equal(t, "no trial has a matrix.json", figures[0].Reason)
	require.NoFileExists(t, stale)
}

func TestCatalogueKeepsOtherFigures(t *testing.T) {
	s := syntheticRun{sites: []int{2}, tenants: []int{1}, machines: []int{1}, trials: 1, largestMatrix: 9}.write(t)
	for _, name := range []string{"reachability", "touched"} {
		_, err := Draw(s.Dir(), []string{name})
		require.NoError(t, err)
	}
	known, err := recall(s.Dir())
	require.NoError(t, err)
	require.Len(t, known, 2)
	require.Equal(t, "touched", known[0].Name, "in the order of a report")
}

func TestBrokenMatrixIsNamed(t *testing.T) {
	s := syntheticRun{sites: []int{2}, tenants: []int{1}, machines: []int{1}, trials: 1}.write(t)
	dirs, _ := s.TrialDirs("")
	name := filepath.Join(dirs[0], "matrix.json")
	for text, want := range map[string]string{
		`{`: "unexpected end",
		`{"endpoints":[{"name":"a"}],"cells":[]}`:     "0 rows for 1 endpoints",
		`{"endpoints":[{"name":"a"}],"cells":["AA"]}`: "row 0 has 2 cells",
		`{"endpoints":[{"name":"a"}],"cells":["?"]}`:  `unknown cell '?'`,
	} {
		require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
		_, err := Draw(s.Dir(), []string{"reachability"})
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "matrix.json")
	}
}

// The painted rectangles must show just what the matrix says.
func TestRunsCoverTheMatrix(t *testing.T) {
	m := matrixFile{Matrix: syntheticMatrix(4, 3, 2, true)}
	m.sortByTenant()
	require.Len(t, m.blocks(), 3)
	n := len(m.Cells)
	painted := make([][]byte, n)
	for i := range painted {
		painted[i] = bytes.Repeat([]byte{'?'}, n)
	}
	all := runs(m.Cells)
	for _, r := range all {
		for i := r.row0; i < r.row1; i++ {
			for j := r.col0; j < r.col1; j++ {
				require.Equal(t, byte('?'), painted[i][j], "painted twice")
				painted[i][j] = r.cell
			}
		}
	}
	for i, row := range m.Cells {
		for j := range len(row) {
			if row[j] != cellSelf {
				require.Equal(t, string(row[j]), string(painted[i][j]), "cell %d,%d", i, j)
			}
		}
	}
	clean := matrixFile{Matrix: syntheticMatrix(4, 3, 2, false)}
	clean.sortByTenant()
	require.LessOrEqual(t, len(runs(clean.Cells)), 3*3, "a block a pair of tenants, not a cell a pair of machines")
}

func TestTicks(t *testing.T) {
	labels := func(ticks []string, lo, hi float64, log bool) {
		var got []string
		marks := linearTicks{}.Ticks(lo, hi)
		if log {
			marks = logTicks{}.Ticks(lo, hi)
		}
		for _, m := range marks {
			if m.Label != "" {
				got = append(got, m.Label)
			}
		}
		require.Equal(t, ticks, got)
	}
	labels([]string{"0", "1", "2", "3", "4", "5"}, 0, 5.1, false)
	labels([]string{"0.00", "0.05", "0.10", "0.15", "0.20"}, 0, 0.21, false)
	labels([]string{"1", "10", "100", "1000", "10 000"}, 0.8, 12000, true)
	labels([]string{"20", "50", "100"}, 15, 150, true)
}

func TestWrapBindsWords(t *testing.T) {
	sty := textStyle(textSize, ink)
	got := wrap(sty, 60*vg.Points(1), []string{"Median; " + bind("n = 6 trials") + " a point.", "Kernel x."})
	for _, line := range got {
		require.LessOrEqual(t, sty.Width(line), vg.Length(60))
		require.NotContains(t, line, bound)
	}
	require.Contains(t, strings.Join(got, "|"), "|n = 6 trials a|")
}
