package traffic

import (
	"slices"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// LongestSilence is the longest time without an answer to anybody, and when it
// ended. answers are in order of time.
func LongestSilence(answers []Answer) (longest time.Duration, end event.Mono) {
	for i := 1; i < len(answers); i++ {
		if s := answers[i].Answered.Sub(answers[i-1].Answered); s > longest {
			longest, end = s, answers[i].Answered
		}
	}
	return longest, end
}

// UsualSilence is the median of the times between two answers.
func UsualSilence(answers []Answer) time.Duration {
	var all []time.Duration
	for i := 1; i < len(answers); i++ {
		all = append(all, answers[i].Answered.Sub(answers[i-1].Answered))
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)/2]
}
