package wanopt

import (
	"testing"
	"time"
)

func TestSmartStop(t *testing.T) {
	const mb = 1 << 20
	// Each round takes a second for each 10 MB that it sends, and begins with
	// so much to send.
	for _, c := range []struct {
		name  string
		rule  Rule
		mb    []float64 // to send at the beginning of each round
		stops int       // round; 0: never
		why   string
	}{
		{"nothing is dirtied", Rule{}, []float64{100, 0}, 2, WhyGoal},
		{"it converges", Rule{}, []float64{100, 30, 9, 2, 0.5, 0.1}, 6, WhyGoal},
		{"a larger goal is reached sooner", Rule{Goal: 300 * time.Millisecond}, []float64{100, 30, 9, 2, 0.5, 0.1}, 4, WhyGoal},
		{"it falls for ever, if slowly", Rule{}, []float64{100, 90, 80, 70, 60, 50, 40}, 0, ""},
		{"it turns, and the window is not full", Rule{}, []float64{100, 30, 40, 20, 30}, 0, ""},
		{"a minimum after it has turned", Rule{}, []float64{100, 30, 40, 35, 36, 50, 34, 33}, 7, WhyMinimum},
		{"as much as at the least is no minimum", Rule{}, []float64{100, 30, 40, 35, 36, 50, 35, 35}, 0, ""},
		{"a window of one", Rule{Window: 1}, []float64{100, 30, 40, 35, 34}, 5, WhyMinimum},
		{"it stays as it is", Rule{Rounds: 6}, []float64{100, 30, 31, 31, 31, 31, 31, 31}, 7, WhyRounds},
		{"it stays far above the best", Rule{Rounds: 6}, []float64{100, 30, 80, 90, 90, 91, 92, 93, 94, 95}, 9, WhyRounds},
		{"the best comes again after the last round", Rule{Rounds: 6}, []float64{100, 30, 80, 90, 90, 91, 92, 32, 94}, 8, WhyMinimum},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStopper(c.rule)
			at, sent := 5*time.Second, int64(77)
			for i, m := range c.mb {
				l := look{at: at, round: int64(i + 1), remaining: int64(m * mb), sent: sent}
				why := s.see(l)
				if stops := i+1 == c.stops; stops != (why != "") || stops && why != c.why {
					t.Fatalf("round %d: %q, expected %q in round %d", i+1, why, c.why, c.stops)
				}
				if why != "" {
					return
				}
				l.remaining /= 2
				if why := s.see(l); why != "" {
					t.Fatalf("in the midst of round %d: %q", i+1, why)
				}
				at += time.Duration(m / 10 * float64(time.Second))
				sent += int64(m * mb)
			}
		})
	}
}

func TestRoundsThatNobodySawCount(t *testing.T) {
	s := newStopper(Rule{Rounds: 4})
	for i, round := range []int64{1, 2, 5, 6} {
		if why := s.see(look{at: time.Duration(i) * time.Second, round: round, remaining: 50 << 20, sent: int64(i) * 50 << 20}); (why != "") != (round > 4) {
			t.Fatalf("round %d: %q", round, why)
		} else if why != "" {
			return
		}
	}
	t.Error("it was never stopped")
}
