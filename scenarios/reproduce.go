package scenarios

import (
	"bytes"
	_ "embed" // the papers' scenarios
	"fmt"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/vpclab/vpclab/topo"
)

// A paper is reproduced by a scenario whose claims hold the paper's numbers. It
// is written by a template for a size, and is an ordinary scenario then.

//go:embed papers/cloudnet.vpclab.yml.tmpl
var cloudnetTemplate string

// Effort is how much of a paper is done again.
type Effort int

// Efforts.
const (
	Quick  Effort = iota // a sixteenth of the size, the main claims, twice
	Normal               // a sixteenth of the size, every algorithm and bandwidth, six times
	Full                 // table I at full size, the rest at a quarter, four times as the paper did
)

// Papers names what can be reproduced.
func Papers() []string { return []string{"cloudnet"} }

// Reproduction is the scenario that reproduces a paper, as text and read. The
// text is what a run keeps.
func Reproduction(paper string, effort Effort) (*topo.Scenario, *topo.Plan, error) {
	if paper != "cloudnet" {
		hint := ""
		if near := topo.Nearest(paper, Papers()); near != "" {
			hint = "; did you mean " + near + "?"
		}
		return nil, nil, fmt.Errorf("there is no paper %q to reproduce; expected %s%s", paper, strings.Join(Papers(), ", "), hint)
	}
	text, err := writeCloudnet(effort)
	if err != nil {
		return nil, nil, err
	}
	return Parse(paper+"-"+sizes[effort].Name+suffix, text)
}

// size is what the template is filled with.
type size struct {
	Name, Flag string
	Scale      string // of the experiments with one VM of 1 GiB
	Rest       string // of the others
	Share      string // that scale in words
	Kernel     string // memory of the lab's kernel
	Disk       string
	Stay       string // of a VM before it returns
	Points     int    // tolerance of cuts, in percentage points
	Trials     int    // of table I
	Few        int    // of the rest
	All        bool   // every algorithm and bandwidth
	Table1     []row
	Parts      []string // algorithms that CloudNet is made of
}

var sizes = map[Effort]size{
	Quick:  {Name: "quick", Flag: "--quick", Scale: "mini", Rest: "mini", Share: "a sixteenth", Kernel: "3GiB", Disk: "64MiB", Stay: "1s", Points: 10, Trials: 2, Few: 1},
	Normal: {Name: "mini", Scale: "mini", Rest: "mini", Share: "a sixteenth", Kernel: "3GiB", Disk: "256MiB", Stay: "5s", Points: 10, Trials: 6, Few: 4, All: true},
	Full:   {Name: "full", Flag: "--full", Scale: "full", Rest: "quarter", Share: "all (a quarter where several VMs or a disk move)", Kernel: "16GiB", Disk: "1GiB", Stay: "30s", Points: 6, Trials: 4, Few: 4, All: true},
}

// row is a workload's row of the paper's table I: cuts in percent, iterations of
// Smart Stop, and why results differ here.
type row struct {
	ID, Workload, Title                            string
	Data, Total, Pause, Rounds                     int
	Share4K, Share1K                               float64 // redundancy by blocks, in percent (figure 5)
	WhyData, WhyTotal, WhyPause, WhyXen, WhyRounds string
}

// Reasons that hold for all workloads.
const (
	whyPause  = "a pause of this size is some hundred milliseconds, of which a busy computer takes its part: see the range, and a larger scale"
	whyRounds = "the paper does not print the length of Smart Stop's window: here it is 3 rounds"
)

var tableOne = []row{
	{ID: "H1", Workload: "tpcw", Title: "TPC-W", Data: 40, Total: 42, Pause: 38, Rounds: 7, WhyPause: whyPause, WhyRounds: whyRounds, Share4K: 18.5, Share1K: 30},
	{ID: "H2", Workload: "kernelbuild", Title: "kernel build", Data: 27, Total: 24, Pause: 41, Rounds: 9, WhyPause: whyPause, WhyRounds: whyRounds, Share4K: 7, Share1K: 16},
	{ID: "H3", Workload: "specjbb", Title: "SPECjbb", Data: 67, Total: 69, Pause: 17, Rounds: 10, WhyPause: whyPause, WhyRounds: whyRounds, Share4K: 59, Share1K: 62.5},
}

// whys are the reasons of the other claims.
var whys = map[string]string{
	"burst":  "the paper's VM was measured after 20 minutes of use by 600 users, and its Xen needed 2.2 GB for 1.7 GB of memory; here the workload of table I runs in a VM with more memory, of which less is written",
	"group":  "the paper's VMs are those of section VI-K (Xen 4.2.1, distcc), where redundancy elimination alone cuts the kernel build's data by 65 %; in table I all of CloudNet cuts it by 27 %, and the workload here is that one. Four encoders also share one processor with the emulated network",
	"disk":   "",
	"return": "",
	"zip":    "",
}

// writeCloudnet fills in the template.
func writeCloudnet(effort Effort) ([]byte, error) {
	s := sizes[effort]
	s.Table1, s.Parts = tableOne, []string{"smart-stop", "cbr", "deltas"}
	one, rest := scaleOf(s.Scale), scaleOf(s.Rest)
	t, err := template.New("cloudnet").Option("missingkey=error").Funcs(template.FuncMap{
		// ms and restms are a round-trip time of the paper, made smaller.
		"ms":     func(v float64) string { return milliseconds(v * one) },
		"restms": func(v float64) string { return milliseconds(v * rest) },
		// mib is a memory of the paper, in whole pages.
		"mib": func(v float64) string {
			pages := int64(v * rest * (1 << 20) / 4096)
			return strconv.FormatFloat(float64(pages*4)/1024, 'f', -1, 64) + "MiB"
		},
		"why": func(key string) string { return whys[key] },
	}).Parse(cloudnetTemplate)
	if err != nil {
		return nil, fmt.Errorf("the template of cloudnet: %w", err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, s); err != nil {
		return nil, fmt.Errorf("the template of cloudnet: %w", err)
	}
	return out.Bytes(), nil
}

func milliseconds(v float64) string {
	return topo.Duration(v * float64(time.Millisecond)).String()
}
