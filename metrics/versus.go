package metrics

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// wrapAt is how long a line of a reason is at most.
const wrapAt = 110

// wrap cuts a text into lines between words.
func wrap(text string, most int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > most {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// WriteNumbers prints the published values of claims beside the measured ones,
// a row each, as text for a terminal. What makes a difference stands below its
// row. Claims without numbers are a row of their own.
func WriteNumbers(w io.Writer, claims []ClaimOutcome) error {
	rows := [][]string{{"claim", "verdict", "", "printed", "measured", "n", "within"}}
	below := map[int]string{}
	for _, c := range claims {
		if len(c.Numbers) == 0 || len(c.Evidence) > 0 {
			held := 0
			for _, e := range c.Evidence {
				if e.Pass {
					held++
				} else {
					below[len(rows)] = "does not hold: " + e.Text
				}
			}
			verdict := marks[ClaimPass]
			switch {
			case c.Status == ClaimOpen:
				verdict, below[len(rows)] = marks[ClaimOpen], c.Why
			case held < len(c.Evidence):
				verdict = marks[ClaimFail]
			}
			rows = append(rows, []string{c.ID, verdict, fmt.Sprintf("%s (%d of %d hold)", c.Says, held, len(c.Evidence))})
		}
		for _, n := range c.Numbers {
			if n.Why != "" {
				below[len(rows)] = n.Why
			}
			row := []string{c.ID, marks[n.Status], n.Name(), n.ShowPrinted(), n.ShowMeasured(), fmt.Sprint(n.N), n.ShowTolerance()}
			if n.Status == NumberOpen {
				row = row[:3]
			}
			rows = append(rows, row)
		}
	}
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			if i == 2 && len(row) == 3 {
				continue // a sentence: nothing stands after it
			}
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for i, row := range rows {
		var line strings.Builder
		for j, cell := range row {
			if j > 0 {
				line.WriteString("  ")
			}
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", max(0, width[j]-utf8.RuneCountInString(cell))))
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(line.String(), " ")); err != nil {
			return err
		}
		for _, part := range wrap(below[i], wrapAt) {
			if _, err := fmt.Fprintf(w, "%s  %s\n", strings.Repeat(" ", width[0]+2+width[1]), part); err != nil {
				return err
			}
		}
	}
	return nil
}
