package metrics

import "fmt"

// ParseShare reads a share as people write it: "3%", "0.03".
func ParseShare(text string) (float64, error) {
	q, err := parseQuantity(text)
	switch {
	case err != nil:
		return 0, err
	case q.unit == "":
		return q.value, nil
	case units[q.unit].dim != dimPercent:
		return 0, fmt.Errorf("%s is no share: write it as 3%% or 0.03", q)
	}
	return q.value * units[q.unit].scale / 100, nil
}
