package compare

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

// The elements of JUnit's XML that CI systems read.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Skipped  int         `xml:"skipped,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name    string       `xml:"name,attr"`
		Class   string       `xml:"classname,attr"`
		Failure *junitReason `xml:"failure,omitempty"`
		Skipped *junitReason `xml:"skipped,omitempty"`
		Out     string       `xml:"system-out,omitempty"`
	}
	junitReason struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes a test case for each metric that decides and each counter
// that differs: a regression is a failure, and what could not be judged is
// skipped with its reason. What decides nothing is no test case.
func (r Report) WriteJUnit(w io.Writer) error {
	all := junitSuites{Name: fmt.Sprintf("vpclab compare %s %s", r.Old.Name, r.New.Name)}
	at := map[string]int{}
	for _, c := range r.Cells {
		if !c.Primary && !(c.Exact && c.Verdict != Same) || c.Verdict == NewOnly {
			continue
		}
		i, ok := at[c.Experiment]
		if !ok {
			i = len(all.Suites)
			at[c.Experiment] = i
			all.Suites = append(all.Suites, junitSuite{Name: c.Experiment})
		}
		all.Suites[i].add(c)
	}
	for _, s := range all.Suites {
		all.Tests, all.Failures, all.Skipped = all.Tests+s.Tests, all.Failures+s.Failures, all.Skipped+s.Skipped
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func (s *junitSuite) add(c Cell) {
	tc := junitCase{Name: strings.TrimPrefix(c.Name(), c.Experiment+" "), Class: "vpclab." + c.Experiment}
	line := c.sentence()
	s.Tests++
	switch c.Verdict {
	case Regression:
		s.Failures++
		tc.Failure = &junitReason{Message: line, Text: line}
	case TooFew, OldOnly:
		s.Skipped++
		why := c.Why
		if why == "" {
			why = "there is no value of it on the new side"
		}
		tc.Skipped = &junitReason{Message: why}
	default:
		tc.Out = line
	}
	s.Cases = append(s.Cases, tc)
}

// sentence is a cell in one line, with all that is known of it.
func (c Cell) sentence() string {
	row := c.row()
	var parts []string
	for i, name := range columns[3:] {
		if text := row[3+i]; text != "–" && text != "" {
			parts = append(parts, name+" "+text)
		}
	}
	return strings.Join(parts, ", ")
}
