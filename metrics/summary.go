package metrics

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	"golang.org/x/perf/benchmath"
)

// Confidence is the level of every interval that vpclab prints.
const Confidence = 0.95

// Summary describes some values of one metric without assuming anything of
// their distribution: the sample median and an interval for the median of
// whatever they were drawn from, by order statistics.
type Summary struct {
	N      int
	Median float64
	// Lo and Hi bound the interval; they are ±Inf where N is too small for
	// one (see HasInterval, Note).
	Lo, Hi float64
	// Confidence is the interval's true level: at least 0.95, more for small
	// N because order statistics come in steps.
	Confidence     float64
	Min, Max, Mean float64
	// Note says in words what a reader must know, as too small an N.
	Note string
}

// Summarize describes values; it sorts nothing of the caller's.
func Summarize(values []float64) Summary {
	if len(values) == 0 {
		nan := math.NaN()
		return Summary{Median: nan, Lo: math.Inf(-1), Hi: math.Inf(1), Min: nan, Max: nan, Mean: nan, Note: "no values"}
	}
	sample := benchmath.NewSample(slices.Clone(values), &benchmath.DefaultThresholds)
	sum := benchmath.AssumeNothing.Summary(sample, Confidence)
	s := Summary{
		N: len(values), Median: sum.Center, Lo: sum.Lo, Hi: sum.Hi, Confidence: sum.Confidence,
		Min: slices.Min(values), Max: slices.Max(values),
	}
	for _, v := range values {
		s.Mean += v / float64(len(values))
	}
	if s.Min == s.Max { // the summing above rounds; the mean of equals is exact
		s.Mean = s.Min
	}
	if !s.HasInterval() {
		s.Note = fmt.Sprintf("n=%d is too few for a 95 %% interval (6 are needed)", s.N)
	}
	return s
}

// HasInterval reports whether there were enough values for an interval.
func (s Summary) HasInterval() bool { return !math.IsInf(s.Lo, 0) && !math.IsInf(s.Hi, 0) }

// String is "0.412 [0.398, 0.431] n=8", or, with too few values, the median
// with the extremes and the reason.
func (s Summary) String() string {
	switch {
	case s.N == 0:
		return s.Note
	case s.HasInterval():
		return fmt.Sprintf("%s [%s, %s] n=%d", FormatValue(s.Median), FormatValue(s.Lo), FormatValue(s.Hi), s.N)
	default:
		return fmt.Sprintf("%s (min %s, max %s; %s)", FormatValue(s.Median), FormatValue(s.Min), FormatValue(s.Max), s.Note)
	}
}

// summaryJSON is a Summary in a form that JSON can hold: no interval is null.
type summaryJSON struct {
	N          int      `json:"n"`
	Median     float64  `json:"median"`
	Lo         *float64 `json:"lo"`
	Hi         *float64 `json:"hi"`
	Confidence float64  `json:"confidence,omitempty"`
	Min        float64  `json:"min"`
	Max        float64  `json:"max"`
	Mean       float64  `json:"mean"`
	Note       string   `json:"note,omitempty"`
}

// MarshalJSON writes lo and hi as null where there is no interval.
func (s Summary) MarshalJSON() ([]byte, error) { return json.Marshal(s.wire()) }

func (s Summary) wire() summaryJSON {
	out := summaryJSON{N: s.N, Median: s.Median, Min: s.Min, Max: s.Max, Mean: s.Mean, Note: s.Note}
	if s.HasInterval() {
		out.Lo, out.Hi, out.Confidence = &s.Lo, &s.Hi, s.Confidence
	}
	return out
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (s *Summary) UnmarshalJSON(data []byte) error {
	var in summaryJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	s.fill(in)
	return nil
}

func (s *Summary) fill(in summaryJSON) {
	*s = Summary{
		N: in.N, Median: in.Median, Lo: math.Inf(-1), Hi: math.Inf(1), Confidence: in.Confidence,
		Min: in.Min, Max: in.Max, Mean: in.Mean, Note: in.Note,
	}
	if in.Lo != nil && in.Hi != nil {
		s.Lo, s.Hi = *in.Lo, *in.Hi
	}
}

// PointSummary is an entry of summary.json: one metric at one set of labels.
type PointSummary struct {
	Experiment string
	Metric     string
	Unit       string
	Labels     map[string]string
	Summary
	// Void is how many values of void trials are left out; see WithVoid.
	Void int
}

type pointSummaryJSON struct {
	Experiment string            `json:"experiment"`
	Metric     string            `json:"metric"`
	Unit       string            `json:"unit"`
	Labels     map[string]string `json:"labels"`
	summaryJSON
	Void int `json:"void,omitempty"`
}

// MarshalJSON writes one flat object.
func (p PointSummary) MarshalJSON() ([]byte, error) {
	return json.Marshal(pointSummaryJSON{p.Experiment, p.Metric, p.Unit, p.Labels, p.wire(), p.Void})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (p *PointSummary) UnmarshalJSON(data []byte) error {
	var in pointSummaryJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	p.Experiment, p.Metric, p.Unit, p.Labels, p.Void = in.Experiment, in.Metric, in.Unit, in.Labels, in.Void
	p.fill(in.summaryJSON)
	return nil
}

// SummarizeAll summarizes every metric at every set of labels, ordered by
// experiment, metric and labels.
func SummarizeAll(samples []Sample) []PointSummary {
	type key struct{ experiment, metric, unit, labels string }
	values := map[key][]float64{}
	labels := map[key]map[string]string{}
	for _, s := range samples {
		k := key{s.Experiment, s.Metric, s.Unit, PointText(s.Labels)}
		values[k] = append(values[k], s.Value)
		labels[k] = s.Labels
	}
	keys := slices.SortedFunc(maps.Keys(values), func(a, b key) int {
		for _, p := range [][2]string{{a.experiment, b.experiment}, {a.metric, b.metric}, {a.labels, b.labels}, {a.unit, b.unit}} {
			if c := compareNatural(p[0], p[1]); c != 0 {
				return c
			}
		}
		return 0
	})
	rows := make([]PointSummary, 0, len(keys))
	for _, k := range keys {
		rows = append(rows, PointSummary{Experiment: k.experiment, Metric: k.metric, Unit: k.unit, Labels: labels[k], Summary: Summarize(values[k])})
	}
	return rows
}

// FormatValue prints a value with four significant digits, whole numbers
// whole, without exponents where a reader can do without.
func FormatValue(v float64) string {
	switch a := math.Abs(v); {
	case v == math.Trunc(v) && a < 1e9:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 1e9 || a < 1e-4:
		return strconv.FormatFloat(v, 'g', 4, 64)
	case a >= 1000:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return strconv.FormatFloat(v, 'g', 4, 64)
	}
}
