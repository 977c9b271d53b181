package guest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// run makes a workload do n ticks in a memory of its own.
func runTicks(t testing.TB, s Spec, n int) (workload, *Memory) {
	w, _, err := newWorkload(s)
	require.NoError(t, err)
	m, err := CreateMemory(host(t), s.Memory, true)
	require.NoError(t, err)
	t.Cleanup(func() { m.Close() })
	w.fill(m)
	m.Collect(make([]uint64, words(m.Pages())))
	for range n {
		require.NoError(t, w.step(m))
	}
	return w, m
}

func TestWritesAreAFunctionOfSeedAndTime(t *testing.T) {
	for _, name := range Workloads() {
		if name == Trace {
			continue
		}
		t.Run(name, func(t *testing.T) {
			s := Spec{Name: "x", Memory: 8 << 20, Workload: name, Seed: 5}
			_, a := runTicks(t, s, 200)
			_, b := runTicks(t, s, 200)
			require.Equal(t, a.Bytes(), b.Bytes())
			s.Seed = 6
			_, c := runTicks(t, s, 200)
			require.NotEqual(t, a.Bytes(), c.Bytes())
		})
	}
}

func TestWritesMarkTheirPages(t *testing.T) {
	s := Spec{Name: "x", Memory: 8 << 20, Workload: KernelBuild, Seed: 5}
	w, m := runTicks(t, s, 0)
	before := append([]byte(nil), m.Bytes()...)
	m.takeOver()
	for range 20 {
		require.NoError(t, w.step(m))
	}
	dirty, written := make([]uint64, words(m.Pages())), make([]uint64, words(m.Pages()))
	n := m.Collect(dirty)
	require.Positive(t, n)
	require.Equal(t, n, m.Written(written))
	require.Equal(t, dirty, written)
	for p := range m.Pages() {
		if dirty[p/64]&(1<<(p%64)) == 0 {
			require.Equal(t, before[p*PageSize:][:PageSize], m.Bytes()[p*PageSize:][:PageSize], "page %d", p)
		}
	}
	require.Zero(t, m.Collect(dirty))
	require.Equal(t, n, m.Written(written), "they stay")
}

func TestEachPageIsCheckedAgainstWhatWasWritten(t *testing.T) {
	s := Spec{Name: "x", Memory: 8 << 20, Workload: TPCW, Seed: 5}
	w, m := runTicks(t, s, 100)
	p := w.(*player)
	for q := range m.Pages() {
		require.NoError(t, p.check(m, q))
	}
	q := int(p.sweep[2][0])
	m.Bytes()[q*PageSize+PageSize-1] ^= 1
	require.ErrorContains(t, p.check(m, q), "differs at byte 4032")
}

// An old version of a page is found out, not only mangled bytes.
func TestAStalePageIsNoticed(t *testing.T) {
	s := Spec{Name: "x", Memory: 8 << 20, Workload: MMuncher, Seed: 5}
	w, m := runTicks(t, s, 0)
	q := int(w.(*player).sweep[0][0])
	old := append([]byte(nil), m.Bytes()[q*PageSize:][:PageSize]...)
	require.NoError(t, w.step(m))
	copy(m.Bytes()[q*PageSize:], old)
	var err error
	for range 10_000 {
		if err = w.step(m); err != nil {
			break
		}
	}
	require.ErrorContains(t, err, "differs")
}

func TestATraceIsPlayedAsItWasRecorded(t *testing.T) {
	s := Spec{Name: "x", Memory: 8 << 20, Workload: TPCW, Seed: 5}
	path := filepath.Join(t.TempDir(), "trace")
	w, m := runTicks(t, s, 0)
	rec, err := createTrace(path, TraceInfo{m.Pages(), w.tick(), s.Workload})
	require.NoError(t, err)
	m.trace = rec
	words := make([]uint64, words(m.Pages()))
	var dirtied []int
	const ticks = 50
	for range ticks {
		require.NoError(t, w.step(m))
		rec.tick()
		dirtied = append(dirtied, m.Collect(words))
	}
	require.NoError(t, rec.close())
	info, err := os.Stat(path)
	require.NoError(t, err)
	total := 0
	for _, n := range dirtied {
		total += n
	}
	t.Logf("%d writes in %d bytes", total, info.Size())
	require.Less(t, info.Size(), int64(3*total+100))

	s.Workload, s.Trace = Trace, path
	play, m2 := runTicks(t, s, 0)
	for round := range 3 { // over and over
		for i := range ticks {
			require.NoError(t, play.step(m2))
			require.Equal(t, dirtied[i], m2.Collect(words), "round %d, tick %d", round, i)
		}
	}
}

func TestSpecsThatCannotBe(t *testing.T) {
	good := Spec{Name: "x", Memory: 1 << 20, Workload: Idle}
	require.NoError(t, good.Check())
	for want, change := range map[string]func(*Spec){
		"memory of 4097 bytes": func(s *Spec) { s.Memory = 4097 },
		"disk of 4096 bytes":   func(s *Spec) { s.Disk = 4096 },
		`workload "doom"`:      func(s *Spec) { s.Workload = "doom" },
		"a trace file is for":  func(s *Spec) { s.Trace = "t" },
		"that wants one":       func(s *Spec) { s.Workload = Trace },
		"scale -1":             func(s *Spec) { s.Scale = -1 },
		"port 70000":           func(s *Spec) { s.Port = 70000 },
	} {
		s := good
		change(&s)
		require.ErrorContains(t, s.Check(), want)
	}
}

// BenchmarkWorkload tells what share of a processor a workload takes.
func BenchmarkWorkload(b *testing.B) {
	for _, name := range Workloads() {
		if name == Trace {
			continue
		}
		b.Run(name, func(b *testing.B) {
			w, m := runTicks(b, Spec{Name: "x", Memory: 64 << 20, Workload: name, Seed: 5}, 0)
			b.ResetTimer()
			for range b.N {
				if err := w.step(m); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(100*b.Elapsed().Seconds()/(float64(b.N)*w.tick().Seconds()), "%CPU")
		})
	}
}
