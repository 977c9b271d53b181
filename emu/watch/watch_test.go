package watch

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const ms = int64(time.Millisecond)

// every gives beats every period for a while, all of them late by so much, on a
// counter of 2 ticks a nanosecond.
func every(n int, late int64) (beats []beat) {
	for i := range int64(n) {
		due := (i + 1) * int64(Period)
		beats = append(beats, beat{due, due + late, uint64(2 * (due + late))})
	}
	return beats
}

func TestPaceOfAQuietKernel(t *testing.T) {
	var s Seen
	s.pace(every(100, ms/10), 0, 101*int64(Period), 101*int64(Period), []window{{0, 101 * int64(Period)}})
	require.Equal(t, Seen{Beats: 100, Median: 100 * time.Microsecond, P99: 100 * time.Microsecond, Stall: 100 * time.Microsecond, StallAt: Period}, s)
}

func TestAStallIsAllTheWakeUpsThatItTook(t *testing.T) {
	// It stands still from shortly before the tenth wake-up on, for 340 ms.
	beats := every(9, 0)
	due := 10 * int64(Period)
	beats = append(beats, beat{due, due + 339*ms, uint64(2 * (due + 339*ms))})
	for next := due + 15*int64(Period); len(beats) < 86; next += int64(Period) {
		beats = append(beats, beat{next, next, uint64(2 * next)})
	}
	var s Seen
	s.pace(beats, 0, 101*int64(Period), 101*int64(Period), []window{{0, 101 * int64(Period)}})
	require.Equal(t, 339*time.Millisecond, s.Stall)
	require.Equal(t, 10*Period, s.StallAt)
	require.Equal(t, 100, s.Beats, "those that were slept through are counted")
	require.InDelta(t, 0.15, s.Late, 0.001, "and the share of the time is right")
	require.Equal(t, 339*time.Millisecond-Period, s.P99, "one in a hundred was later")
	require.Less(t, s.Jump, time.Millisecond, "a stall is no jump of the clock: the counter stood too")
}

func TestWhatIsOverdueCounts(t *testing.T) {
	var s Seen
	s.pace(every(10, 0), 0, 500*ms, 11*int64(Period), []window{{0, 500 * ms}})
	require.Equal(t, 500*time.Millisecond-11*Period, s.Stall, "it has not woken yet")
}

func TestOnlyWhatIsInTheSpanCounts(t *testing.T) {
	beats := []beat{{due: 10 * ms, woke: 400 * ms}, {due: 410 * ms, woke: 410 * ms}, {due: 430 * ms, woke: 900 * ms}}
	var s Seen
	s.pace(beats, 300*ms, 600*ms, 600*ms, []window{{300 * ms, 600 * ms}})
	require.Equal(t, 170*time.Millisecond, s.Stall, "of the longer one, the part within")
	s = Seen{}
	s.pace(beats, 300*ms, 420*ms, 420*ms, []window{{300 * ms, 420 * ms}})
	require.Equal(t, 100*time.Millisecond, s.Stall, "of a stall before it, the part within")
}

func TestOnlyWindowsThatMatterCount(t *testing.T) {
	beats := []beat{{due: 100 * ms, woke: 400 * ms}, {due: 410 * ms, woke: 410 * ms}, {due: 430 * ms, woke: 480 * ms}}
	for _, c := range []struct {
		name    string
		windows []window
		stall   time.Duration
	}{
		{"before and after the stall", []window{{0, 90 * ms}, {405 * ms, 420 * ms}}, 0},
		{"the stall's end", []window{{390 * ms, 420 * ms}}, 10 * time.Millisecond},
		{"inside the stall", []window{{200 * ms, 300 * ms}}, 100 * time.Millisecond},
		{"two of them", []window{{0, 110 * ms}, {420 * ms, 500 * ms}}, 50 * time.Millisecond},
	} {
		var s Seen
		s.pace(beats, 0, 500*ms, 500*ms, c.windows)
		require.Equal(t, c.stall, s.Stall, c.name)
	}
}

func TestAClockThatJumps(t *testing.T) {
	beats := every(50, 0)
	for i := 20; i < len(beats); i++ { // 5 ms forward, and the counter knows nothing of it
		beats[i].woke += 5 * ms
		beats[i].due += 5 * ms
	}
	var s Seen
	s.pace(beats, 0, 60*int64(Period), 60*int64(Period), []window{{0, 60 * int64(Period)}})
	require.InDelta(t, 5*time.Millisecond, s.Jump, float64(10*time.Microsecond))
	require.Equal(t, 21*Period+5*time.Millisecond, s.JumpAt)
	for i := range beats {
		beats[i].tsc = 0
	}
	s = Seen{}
	s.pace(beats, 0, 60*int64(Period), 60*int64(Period), []window{{0, 60 * int64(Period)}})
	require.Zero(t, s.Jump, "where there is no counter nothing is known")
}

func TestCountersAreReadAsTheKernelWritesThem(t *testing.T) {
	var c counters
	require.NoError(t, c.uptime("2.87 1.99"))
	require.NoError(t, c.stat("cpu  42 0 25 7 0 0 0 300 0 0\ncpu0 42 0 25 7 0 0 0 300 0 0\nintr 317"))
	require.NoError(t, c.softnet("0000000a 00000001 00000000 00000000\n00000014 00000002 00000000 00000000"))
	require.NoError(t, c.vmstat("nr_free_pages 108841\nallocstall_normal 2\nallocstall_movable 3\noom_kill 1\npgfault 9"))
	require.Equal(t, counters{up: 2.87, idle: 1.99, steal: 3, processed: 30, dropped: 3, reclaims: 5, killed: 1}, c)
	for name, parse := range map[string]func(string) error{"uptime": c.uptime, "stat": c.stat, "softnet": c.softnet} {
		require.Error(t, parse("x"), name)
	}
}

func TestWatchOnThisKernel(t *testing.T) {
	w, err := New()
	require.NoError(t, err)
	whole := w.Begin()
	for range 3 {
		s := w.Begin()
		time.Sleep(5 * Period)
		seen := s.End()
		require.NoError(t, seen.Uncounted)
		require.GreaterOrEqual(t, seen.Beats, 4)
		require.Zero(t, seen.Lost)
		require.Less(t, seen.Stepped.Abs(), 50*time.Millisecond)
	}
	seen := whole.End()
	require.GreaterOrEqual(t, seen.Beats, 12)
	require.GreaterOrEqual(t, seen.Lasted, 15*Period)
	t.Logf("%+v", seen)
	require.NoError(t, w.Close())
}

// Go's collector, its preemption by signals and new processes have nothing to do
// with a thread that they do not know.
func TestThePulseAndGoDoNotMeet(t *testing.T) {
	w, err := New()
	require.NoError(t, err)
	s := w.Begin()
	stop := make(chan struct{})
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
				_ = make([]byte, 1<<16)
			}
		}
	}()
	for range 20 {
		runtime.GC()
	}
	time.Sleep(3 * Period)
	close(stop)
	require.NotZero(t, s.End().Beats)
	require.NoError(t, w.Close())
	for range 5 {
		w, err := New()
		require.NoError(t, err)
		require.NoError(t, w.Close())
	}
}

func TestNotesThatNobodyTook(t *testing.T) {
	w, err := New()
	require.NoError(t, err)
	defer w.Close()
	from := uint64(0)
	for w.pulse.head() < 3 {
		time.Sleep(Period)
	}
	beats, lost := w.pulse.take(&from, nil)
	require.GreaterOrEqual(t, len(beats), 3)
	require.Zero(t, lost)
	require.Zero(t, (beats[1].due-beats[0].due)%int64(Period), "all on one grid")
}
