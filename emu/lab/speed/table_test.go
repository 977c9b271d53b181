package speed

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/metrics"
)

// table writes what a contest measured, as Markdown: medians, in brackets the
// interval of 95 % for them where n is large enough and else the extremes.
func (c *contest) table(w io.Writer) {
	fmt.Fprintf(w, "\n%d machines, %s\n\n", c.n, kernelName())
	fmt.Fprintln(w, "| builder | n | build, s | nodes/s | × floor | destroy, s | × floor | memory back, s | kB a node |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|")
	for _, x := range c.contestants {
		up := metrics.Summarize(c.seconds(x.name, lap.up))
		down := metrics.Summarize(c.seconds(x.name, lap.down))
		var memory []float64
		for _, l := range c.laps[x.name] {
			memory = append(memory, l.memory)
		}
		fmt.Fprintf(w, "| %s | %d | %s | %.0f | %s | %s | %s | %s | %.0f |\n", x.name, up.N, spread(up), float64(c.n)/up.Median,
			spread(metrics.Summarize(c.ratios(x.name, lap.up))), spread(down),
			spread(metrics.Summarize(c.ratios(x.name, lap.down))), spread(metrics.Summarize(c.seconds(x.name, lap.back))), metrics.Summarize(memory).Median)
	}
	for name, why := range c.absent {
		fmt.Fprintf(w, "\n%s did not take part: %s.\n", name, why)
	}
}

// spread is a median with its interval, or its extremes.
func spread(s metrics.Summary) string {
	switch {
	case s.N == 0:
		return "–"
	case s.N == 1:
		return digits(s.Median)
	case s.HasInterval():
		return fmt.Sprintf("%s [%s, %s]", digits(s.Median), digits(s.Lo), digits(s.Hi))
	}
	return fmt.Sprintf("%s (%s–%s)", digits(s.Median), digits(s.Min), digits(s.Max))
}

// digits writes three of them.
func digits(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// kernelName is the kernel's name and release.
func kernelName() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "an unknown kernel"
	}
	name := "Linux " + unix.ByteSliceToString(u.Release[:])
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil && strings.Contains(string(info), "User Mode Linux") {
		name = "User Mode " + name
	}
	return name + ", " + time.Now().UTC().Format(time.DateOnly)
}
