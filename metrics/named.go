package metrics

// Names are the metrics and label sets whose samples the expectation compares,
// each once, without values: what a scenario's author wants to be held.
func (e *Expectation) Names(samples []Sample) (names []PointSummary) {
	refs := []reference{e.left}
	if e.right != nil {
		refs = append(refs, *e.right)
	}
	for _, r := range refs {
		f, err := r.find(samples)
		if err != nil {
			continue // nothing was measured under that name
		}
		for _, g := range f.groups {
			names = append(names, PointSummary{Metric: f.metric, Unit: f.unit, Labels: g.labels})
		}
	}
	return names
}
