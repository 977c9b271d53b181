package metrics

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGradeIsTheWorstOfTheChecks(t *testing.T) {
	stall := func(v float64) Check { return Check{"stall", v, 0.010, 0.050, "s"} }
	drops := func(v float64) Check { return Check{"backlog-drops", v, 0, 10, "count"} }
	for _, c := range []struct {
		name   string
		checks []Check
		grade  string
		text   string
	}{
		{"nothing was looked at", nil, FidelityPass, "pass"},
		{"at its bounds is within them", []Check{stall(0.010), drops(0)}, FidelityPass, "pass"},
		{"one packet where none may be lost", []Check{stall(0.001), drops(1)}, FidelityWarn, "warn: backlog-drops 1 > 0"},
		{"at the upper bound it is a warning still", []Check{stall(0.050)}, FidelityWarn, "warn: stall 50 ms > 10 ms (t)"},
		{"one void among warnings", []Check{drops(3), stall(0.340)}, FidelityVoid, "void: stall 340 ms > 50 ms (t)"},
		{"two void ones, the worse first", []Check{drops(11), stall(0.340)}, FidelityVoid, "void: stall 340 ms > 50 ms (t), backlog-drops 11 > 10"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := GradeChecks(c.checks, map[string]string{"stall": "t"})
			require.Equal(t, c.grade, f.Grade)
			require.Equal(t, c.text, f.Text())
			require.Equal(t, c.checks, f.Checks)
		})
	}
}

func TestNothingSeenIsUnknownAndNeverPass(t *testing.T) {
	var none *Fidelity
	require.Equal(t, FidelityUnknown, none.Text())
	require.Equal(t, FidelityUnknown, TrialRecord{Status: StatusOK}.Grade())
	require.Equal(t, FidelityUnknown, GradeOf(&Fidelity{Grade: "splendid"}), "a grade of a later version")
	require.True(t, TrialRecord{Status: StatusOK}.Good(), "old results are used as they were")
	require.False(t, TrialRecord{Status: StatusFailed}.Good())
}

func TestShowCheck(t *testing.T) {
	for _, c := range []struct {
		v    float64
		unit string
		want string
	}{
		{0.3401234, "s", "340 ms"}, {0.0000871, "s", "0.0871 ms"}, {5, "s", "5 s"}, {0.251, "ratio", "25.1 %"}, {0, "s", "0 ms"}, {12, "count", "12"}, {3.5, "1/s", "3.5 1/s"},
	} {
		require.Equal(t, c.want, ShowCheck(c.v, c.unit))
	}
}

// seen is the fidelity of a trial in which all stood still for so many seconds.
func seen(stall float64) *Fidelity {
	return GradeChecks([]Check{{"stall", stall, 0.010, 0.050, "s"}}, nil)
}

// addSeen commits a trial that something watched.
func addSeen(t *testing.T, s *Store, sites string, n int, v, stall float64, cause error) {
	t.Helper()
	tr, err := s.Begin("vpc-setup", map[string]string{"sites": sites}, n)
	require.NoError(t, err)
	tr.Add("setup.first_packet", "s", v, map[string]string{"system": "vpn"})
	tr.SetFidelity(seen(stall))
	status := StatusOK
	if cause != nil {
		status = StatusFailed
	}
	require.NoError(t, tr.Commit(status, cause))
}

// One trial of three at 4 sites is void, and the only one at 8.
func aRunWithVoidTrials(t *testing.T) *Store {
	t.Helper()
	s := newStore(t)
	addSeen(t, s, "4", 1, 1, 0.001, nil)
	addSeen(t, s, "4", 2, 2, 0.020, nil)
	addSeen(t, s, "4", 3, 90, 0.340, nil)
	addSeen(t, s, "8", 1, 70, 0.200, nil)
	return s
}

func TestAVoidTrialIsInNothing(t *testing.T) {
	s := aRunWithVoidTrials(t)
	require.NoError(t, s.Finish(VerdictPass, nil))
	for _, s := range []*Store{s, reopen(t, s)} {
		samples, err := s.Samples()
		require.NoError(t, err)
		require.Len(t, samples, 2)
		void, err := s.VoidSamples()
		require.NoError(t, err)
		require.Len(t, void, 2, "nothing is thrown away")
		dirs, _ := s.TrialDirs("")
		require.Len(t, dirs, 2, "no figure takes its evidence from them")
		rows, err := s.Summaries()
		require.NoError(t, err)
		require.Len(t, rows, 1)
		require.Equal(t, 1.5, rows[0].Median)
		require.Equal(t, 1, rows[0].Void, "and the row says so")
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(s.Dir(), name))
		require.NoError(t, err)
		return string(data)
	}
	require.NotContains(t, read("samples.csv"), "90")
	require.Contains(t, read("void.csv"), "vpc-setup,3,setup.first_packet,s,90,4,vpn")
	require.True(t, strings.HasPrefix(read("bench.txt"), "# 2 of 4 trials void (stall 340 ms > 50 ms; stall 200 ms > 50 ms) and left out\n"))
	require.NotContains(t, read("bench.txt"), " 90 ")
	require.Contains(t, read("summary.json"), `"void": 1`)
	require.Contains(t, read("trials.jsonl"), `"grade":"void"`)
}

func TestExpectationsSayWhatTheyLeaveOut(t *testing.T) {
	s := aRunWithVoidTrials(t)
	outcomes, err := s.Judge("vpc-setup", []string{
		"sites=4.setup.first_packet.max < 3s",
		"setup.first_packet.max < 3s",
		"sites=8.setup.first_packet < 3s",
		"sites=8.setup.first_packet < 2 * sites=4.setup.first_packet",
	})
	require.NoError(t, err)
	const left = "; 2 of 4 trials void and left out"
	require.True(t, outcomes[0].Pass)
	require.Equal(t, "sites=4.setup.first_packet.max 2 s < 3 s, n=2, at sites=4 system=vpn"+left, outcomes[0].Text)
	require.False(t, outcomes[1].Pass, "a point that nothing is known of is no point that holds")
	require.Contains(t, outcomes[1].Text, "; no valid value of setup.first_packet at sites=8 system=vpn: all 1 are of void trials"+left)
	require.False(t, outcomes[2].Pass)
	require.Contains(t, outcomes[2].Text, "no valid value of setup.first_packet at sites=8 system=vpn")
	require.False(t, outcomes[3].Pass)
	require.Equal(t, []string{"sites=8: 1 void (stall 200 ms > 50 ms)"}, s.Unmeasured("vpc-setup"))
}

func TestPublishedValuesSayWhatTheyLeaveOut(t *testing.T) {
	s := aRunWithVoidTrials(t)
	outcomes, err := s.JudgeClaims([]Claim{{ID: "C1", Says: "It is so.", Numbers: []Number{
		{Experiment: "vpc-setup", Measure: "sites=4.setup.first_packet", Printed: "1.4s", Within: "10%"},
		{Experiment: "vpc-setup", Measure: "sites=8.setup.first_packet", Printed: "1.4s", Within: "10%"},
	}}}, nil)
	require.NoError(t, err)
	require.Equal(t, "sites=4.setup.first_packet: 1.5 s [1 s … 2 s], n=2, 2 void trials left out; printed 1.4 s, within ±0.14 s", outcomes[0].Numbers[0].Text())
	require.Equal(t, NumberOpen, outcomes[0].Numbers[1].Status)
	require.Contains(t, outcomes[0].Numbers[1].Text(), ", 2 void trials left out")
}

func TestExpectationWithoutAValidSample(t *testing.T) {
	s := newStore(t)
	addSeen(t, s, "4", 1, 1, 0.340, nil)
	outcomes, err := s.Judge("vpc-setup", []string{"setup.first_packet < 3s"})
	require.NoError(t, err)
	require.False(t, outcomes[0].Pass)
	require.Equal(t, "setup.first_packet < 3s: there are no samples; no valid value of setup.first_packet at sites=4 system=vpn: all 1 are of void trials; 1 of 1 trial void and left out", outcomes[0].Text)
}

func TestAVoidTrialGivesWay(t *testing.T) {
	s := newStore(t)
	addSeen(t, s, "4", 1, 90, 0.340, nil)
	require.False(t, s.Done("vpc-setup", map[string]string{"sites": "4"}, 1), "a resumed run does it again")
	addSeen(t, s, "4", 1, 80, 0.200, nil)
	addSeen(t, s, "4", 1, 1, 0.001, nil)
	require.True(t, s.Done("vpc-setup", map[string]string{"sites": "4"}, 1))
	addSeen(t, s, "4", 2, 0, 0.001, errors.New("pe2: speaker died"))
	require.NoError(t, s.Finish(VerdictFail, nil))
	require.NoFileExists(t, filepath.Join(s.Dir(), "void.csv"))

	s = reopen(t, s)
	require.NoError(t, s.Resume(RunInfo{Version: "later"}))
	trials, err := s.Trials()
	require.NoError(t, err)
	require.Len(t, trials, 2)
	require.Equal(t, 3, trials[0].Attempt, "the void attempts are not taken for ones that were killed")

	rep, err := s.Fidelity()
	require.NoError(t, err)
	require.Equal(t, 2, rep.Repeated)
	require.Equal(t, FidelityPass, rep.Grade, "of what counts")
	require.Equal(t, []VoidAttempt{{1, seen(0.340).Breaches}, {2, seen(0.200).Breaches}}, rep.List[0].Void)
	require.Equal(t, "fidelity pass: 2 pass, 2 void attempts made again; worst: stall 340 ms > 50 ms (vpc-setup sites=4, trial 1)", rep.Line())
}

func TestRunFidelityIsStored(t *testing.T) {
	s := aRunWithVoidTrials(t)
	addTrial(t, s, "vpc-setup", map[string]string{"sites": "2"}, 1, 1) // nothing watched it
	require.NoError(t, s.Finish(VerdictPass, nil))
	want, err := s.Fidelity()
	require.NoError(t, err)
	got, err := s.readFidelity()
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Equal(t, map[string]int{FidelityPass: 1, FidelityWarn: 1, FidelityVoid: 2, FidelityUnknown: 1}, got.Trials)
	require.Equal(t, FidelityWarn, got.Grade)
	require.Equal(t, "uml", got.Kernel.Substrate)
	require.Equal(t, "fidelity warn: 1 pass, 1 unknown, 1 warn, 2 void and left out; worst: stall 340 ms > 50 ms (vpc-setup sites=4, trial 3)", got.Line())

	require.NoError(t, os.RemoveAll(filepath.Join(s.Dir(), "trials")))
	kept := reopen(t, s)
	require.True(t, kept.Reduced())
	old, err := kept.Fidelity()
	require.NoError(t, err)
	require.Equal(t, want, old, "where the trials were not kept, too")
	void, err := kept.VoidSamples()
	require.NoError(t, err)
	require.Len(t, void, 2)
	samples, err := kept.Samples()
	require.NoError(t, err)
	require.Len(t, samples, 3)
	require.Equal(t, "2 of 5 trials void (stall 340 ms > 50 ms; stall 200 ms > 50 ms) and left out", kept.VoidText(""))
}

func TestOldResultsAreUnknown(t *testing.T) {
	rep, err := twoPoints(t).Fidelity()
	require.NoError(t, err)
	require.Equal(t, FidelityUnknown, rep.Grade)
	require.Equal(t, "fidelity unknown: 15 unknown", rep.Line())
	data, err := json.Marshal(rep)
	require.NoError(t, err)
	require.NotContains(t, string(data), `"pass"`)
}
