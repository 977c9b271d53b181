package metrics

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
)

// A cheap model can stand for the real thing as far as it foretells it. Where
// an experiment did the same with both, told apart by the value of one label,
// this file says how far that is: point by point, and what is left of the error
// when the model has been calibrated on the other points.

// Prediction is one metric at one point, of the model and of the real thing.
type Prediction struct {
	Experiment string
	Metric     string
	Unit       string
	Labels     map[string]string // without the label that tells them apart
	Model      Summary
	Real       Summary
	// Error is (model - real) / real, of the medians.
	Error float64
	// LeftOut is the same when the model is corrected by what the other points
	// of the metric say; NaN where there is no other.
	LeftOut float64
}

// Correction is how a model's values become the real thing's.
type Correction struct {
	Metric string
	Unit   string
	Points int
	// Factor and Offset: real = Factor * model + Offset. One of them is as if it
	// were not there (1 or 0): two points do not bear two parameters.
	Factor, Offset float64
	// Raw and LeftOut are the median and the largest absolute error before the
	// correction and after it, with each point corrected by all others.
	Raw, LeftOut Errors
}

// Errors are absolute relative errors of several points.
type Errors struct{ Median, Max float64 }

func errorsOf(values []float64) Errors {
	var abs []float64
	for _, v := range values {
		if !math.IsNaN(v) {
			abs = append(abs, math.Abs(v))
		}
	}
	if len(abs) == 0 {
		return Errors{math.NaN(), math.NaN()}
	}
	return Errors{Summarize(abs).Median, slices.Max(abs)}
}

// Predict compares the points of rows at which label has the value model with
// those at which it has the value of, and which are alike in all else, for each
// of the metrics. Points that only one of them has are left out.
func Predict(rows []PointSummary, label, model, of string, names []string) ([]Prediction, []Correction) {
	var all []Prediction
	var corrections []Correction
	for _, name := range names {
		points := predictions(rows, label, model, of, name)
		if len(points) == 0 {
			continue
		}
		corrections = append(corrections, correct(points))
		all = append(all, points...)
	}
	return all, corrections
}

// predictions are those of one metric.
func predictions(rows []PointSummary, label, model, of, metric string) (out []Prediction) {
	for _, m := range rows {
		if m.Metric != metric || m.Labels[label] != model {
			continue
		}
		want := maps.Clone(m.Labels)
		want[label] = of
		i := slices.IndexFunc(rows, func(r PointSummary) bool {
			return r.Metric == metric && r.Experiment == m.Experiment && maps.Equal(r.Labels, want)
		})
		if i < 0 || m.N == 0 || rows[i].N == 0 || rows[i].Median == 0 {
			continue
		}
		delete(want, label)
		out = append(out, Prediction{
			Experiment: m.Experiment, Metric: metric, Unit: m.Unit, Labels: want,
			Model: m.Summary, Real: rows[i].Summary, Error: m.Median/rows[i].Median - 1,
		})
	}
	return out
}

// fit is a correction with one parameter.
type fit struct{ factor, offset float64 }

func (f fit) of(model float64) float64 { return f.factor*model + f.offset }

// byFactor and byOffset are the two ways to correct, from points that are known:
// the median of what each of them asks for, so that one bad point has no say.
func byFactor(points []Prediction) fit {
	var ratios []float64
	for _, p := range points {
		if p.Model.Median != 0 {
			ratios = append(ratios, p.Real.Median/p.Model.Median)
		}
	}
	if len(ratios) == 0 {
		return fit{1, 0}
	}
	return fit{Summarize(ratios).Median, 0}
}

func byOffset(points []Prediction) fit {
	var gaps []float64
	for _, p := range points {
		gaps = append(gaps, p.Real.Median-p.Model.Median)
	}
	return fit{1, Summarize(gaps).Median}
}

// correct chooses of the two ways the one that errs less at points that it has
// not seen, and notes at each point what is left.
func correct(points []Prediction) Correction {
	c := Correction{Metric: points[0].Metric, Unit: points[0].Unit, Points: len(points), Factor: 1}
	var raw []float64
	for _, p := range points {
		raw = append(raw, p.Error)
	}
	c.Raw = errorsOf(raw)
	c.LeftOut = Errors{math.NaN(), math.NaN()}
	if len(points) < 2 {
		points[0].LeftOut = math.NaN()
		return c
	}
	for _, way := range []func([]Prediction) fit{byFactor, byOffset} {
		var left []float64
		for i, p := range points {
			others := slices.Concat(points[:i], points[i+1:])
			left = append(left, way(others).of(p.Model.Median)/p.Real.Median-1)
		}
		if e := errorsOf(left); math.IsNaN(c.LeftOut.Median) || e.Median < c.LeftOut.Median {
			whole := way(points)
			c.Factor, c.Offset, c.LeftOut = whole.factor, whole.offset, e
			for i := range points {
				points[i].LeftOut = left[i]
			}
		}
	}
	return c
}

// String says the correction as a formula.
func (c Correction) String() string {
	switch {
	case c.Points < 2:
		return "one point calibrates nothing"
	case c.Offset != 0:
		return fmt.Sprintf("real = model %+.3g %s", c.Offset, c.Unit)
	}
	return fmt.Sprintf("real = %.3g x model", c.Factor)
}

// WritePredictions prints them as tables in Markdown.
func WritePredictions(w io.Writer, label, model, of string, points []Prediction, corrections []Correction) error {
	var b strings.Builder
	for i, c := range corrections {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "**%s** (%s): %s=%s as a model of %s=%s\n\n", c.Metric, c.Unit, label, model, label, of)
		fmt.Fprintf(&b, "| point | %s | %s | error | error, calibrated on the others |\n|---|---|---|---|---|\n", model, of)
		for _, p := range points {
			if p.Metric == c.Metric {
				fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", PointText(p.Labels), medianText(p.Model), medianText(p.Real), percentText(p.Error), percentText(p.LeftOut))
			}
		}
		fmt.Fprintf(&b, "\nMedians; in [] their 95 %% interval, in () the extremes. %s. Absolute error: median %s, largest %s", c, percentText(c.Raw.Median), percentText(c.Raw.Max))
		if !math.IsNaN(c.LeftOut.Median) {
			fmt.Fprintf(&b, "; calibrated on all other points: median %s, largest %s", percentText(c.LeftOut.Median), percentText(c.LeftOut.Max))
		}
		b.WriteString(".\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// medianText is a median with its interval, or with the extremes in round
// brackets where n is too small for one.
func medianText(s Summary) string {
	if s.HasInterval() {
		return fmt.Sprintf("%.4g [%.4g, %.4g] n=%d", s.Median, s.Lo, s.Hi, s.N)
	}
	return fmt.Sprintf("%.4g (%.4g–%.4g) n=%d", s.Median, s.Min, s.Max, s.N)
}

// percentText is a share in percent, with its sign where it has one.
func percentText(v float64) string {
	if math.IsNaN(v) {
		return "–"
	}
	return fmt.Sprintf("%.1f %%", math.Round(1000*v)/10+0) // never -0.0
}
