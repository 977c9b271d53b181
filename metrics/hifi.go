package metrics

// PublishedGap is what others measured of F1: how far, in percent of the ideal
// gap, that of full frames was off.
type PublishedGap struct {
	Name                   string
	RateBps                float64
	N                      int
	Median, P90, P99, P999 float64
	Says                   string
}

// HiFi are the gaps behind Mininet-HiFi (Handigol, Heller, Jeyakumar, Lantz,
// McKeown: Reproducible Network Experiments Using Container-Based Emulation,
// CoNEXT 2012), recomputed from the raw data that its authors published in
// github.com/mininet/mininet-tests: dctcp/verify and buffersizing/verify. Its
// gaps are not chosen by backlog, so that at 1 Gb/s the time in which the
// sender had nothing to send counts as an error of the link.
var HiFi = []PublishedGap{
	{"DCTCP", 100e6, 24850, 0.8, 3.3, 5.8, 15.8, "passes"},
	{"DCTCP", 1e9, 45536, 8.3, 117, 11550, 32783, "void, as its authors say"},
	{"buffer sizing, 20 flows", 62.5e6, 10300, 0.6, 7.1, 34, 66, "passes"},
	{"buffer sizing, 200 flows", 62.5e6, 10300, 0.4, 6.6, 33, 62, "passes"},
	{"buffer sizing, 800 flows", 62.5e6, 10300, 0.4, 6.1, 26, 49, "passes"},
}
