package fidelity

import (
	"context"
	"fmt"
	"slices"

	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// Queues of F6: each is given twice what it holds at once.
var testedQueues = []topo.Impairment{
	{Rate: 10e6, Queue: 100},
	{Rate: 50e6, Queue: 400},
}

// queues is F6: how much waits, and how long, before something is dropped.
func (r *run) queues(ctx context.Context, b *bench) error {
	for _, line := range testedQueues {
		r.say("F6", b, fmt.Sprintf("%d packets at %v", line.Queue, line.Rate))
		n := 2 * line.Queue
		l, err := b.lay(ctx, []topo.Impairment{line}, n+100, true)
		if err != nil {
			return fmt.Errorf("F6: %w", err)
		}
		ways, err := l.salvo(ctx, n, 0, fullLoad)
		l.close()
		if err != nil {
			return fmt.Errorf("F6: %w", err)
		}
		r.add(judgeQueue(b.system, line, ways[0])...)
	}
	return nil
}

// judgeQueue replays a queue of the length that was set, emptied as the frames
// were seen to leave, and counts what it would have dropped.
func judgeQueue(system string, line topo.Impairment, way []passage) []metrics.Calibrated {
	set := fmt.Sprintf("%d packets at %v", line.Queue, line.Rate)
	drops := metrics.Calibrated{Test: "F6", System: system, What: "drops of a full queue", Set: set, N: len(way), Bar: 1, Unit: "packets"}
	wait := metrics.Calibrated{Test: "F6", System: system, What: "longest wait", Set: set, N: len(way), Bar: 1, Unit: "packet times"}
	var left []int64
	dropped, longest := 0, 0.0
	for _, w := range way {
		switch {
		case w.in == 0:
		case w.out == 0:
			dropped++
		default:
			left = append(left, w.out)
			longest = max(longest, float64(w.took()))
		}
	}
	if len(left) == 0 {
		drops.Grade, wait.Grade = metrics.FidelityVoid, metrics.FidelityVoid
		drops.Note, wait.Note = "nothing came through", "nothing came through"
		return []metrics.Calibrated{drops, wait}
	}
	slices.Sort(left)
	gap := float64(fullFrame) * 8e9 / float64(line.Rate)
	expected, taken := 0, 0
	for _, w := range way {
		if w.in == 0 {
			continue
		}
		gone, _ := slices.BinarySearch(left, w.in) // so many had left when it came
		if taken-min(gone, taken) >= line.Queue {
			expected++
		} else {
			taken++
		}
	}
	drops.Error = float64(max(dropped-expected, expected-dropped))
	drops.Measured = fmt.Sprintf("%d dropped where %d should be", dropped, expected)
	drops.Values = map[string]float64{"dropped": float64(dropped), "expected": float64(expected), "queue": float64(line.Queue)}
	full := float64(line.Queue) * gap
	wait.Error = max(longest-full, full-longest) / gap
	wait.Measured = fmt.Sprintf("%.3f ms of %.3f ms", longest/1e6, full/1e6)
	wait.Values = map[string]float64{"longest_ms": longest / 1e6, "full_ms": full / 1e6}
	drops, wait = drops.Judge(), wait.Judge()
	if expected == 0 { // that nothing was dropped then tells nothing
		drops.Grade, wait.Grade = metrics.FidelityVoid, metrics.FidelityVoid
		drops.Note = "it was never full: what should fill it comes too slowly"
		wait.Note = drops.Note
	}
	return []metrics.Calibrated{drops, wait}
}
