package topo

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

func TestUnits(t *testing.T) {
	for _, c := range []struct {
		unit, text string
		want       any    // nil: refused
		written    string // "": as text
	}{
		{"rate", "465mbit", Rate(465e6), ""},
		{"rate", "128kbit", Rate(128e3), ""},
		{"rate", "1.5gbit", Rate(1.5e9), ""},
		{"rate", "1000mbit", Rate(1e9), "1gbit"},
		{"rate", "0.5kbit", Rate(500), ""},
		{"rate", "1.0005gbit", Rate(1000500000), "1000.5mbit"},
		{"rate", "100", nil, ""}, {"rate", "mbit", nil, ""}, {"rate", "", nil, ""}, {"rate", "1e3mbit", nil, ""},
		{"rate", "-1mbit", nil, ""}, {"rate", "0mbit", nil, ""}, {"rate", ".5mbit", nil, ""}, {"rate", "1.mbit", nil, ""},
		{"rate", "1.2.3mbit", nil, ""}, {"rate", "99999999999999999999gbit", nil, ""}, {"rate", "1Mbit", nil, ""},
		{"time", "13.5ms", Duration(13500 * time.Microsecond), ""},
		{"time", "250us", Duration(250 * time.Microsecond), ""},
		{"time", "250µs", Duration(250 * time.Microsecond), "250us"},
		{"time", "2s", Duration(2 * time.Second), ""},
		{"time", "1m30s", Duration(90 * time.Second), ""},
		{"time", "2m", Duration(2 * time.Minute), ""},
		{"time", "1h", Duration(time.Hour), ""},
		{"time", "0ms", Duration(0), "0s"},
		{"time", "5", nil, ""}, {"time", "0", nil, ""}, {"time", "-5ms", nil, ""}, {"time", "5 ms", nil, ""}, {"time", "ms", nil, ""}, {"time", "48h", nil, ""},
		{"size", "256MiB", Size(256 << 20), ""},
		{"size", "1GiB", Size(1 << 30), ""},
		{"size", "4KiB", Size(4 << 10), ""},
		{"size", "1.5KiB", Size(1536), ""},
		{"size", "2048MiB", Size(2 << 30), "2GiB"},
		{"size", "1GB", nil, ""}, {"size", "1G", nil, ""}, {"size", "1", nil, ""},
		{"percent", "0.1%", Percent(0.1), ""},
		{"percent", "100%", Percent(100), ""},
		{"percent", "0%", Percent(0), ""},
		{"percent", "0.1", nil, ""}, {"percent", "101%", nil, ""}, {"percent", "-1%", nil, ""}, {"percent", "%", nil, ""}, {"percent", "nan%", nil, ""},
	} {
		var got any
		var err error
		var written string
		switch c.unit {
		case "rate":
			v, e := ParseRate(c.text)
			got, err, written = v, e, v.String()
		case "time":
			v, e := ParseDuration(c.text)
			got, err, written = v, e, v.String()
		case "size":
			v, e := ParseSize(c.text)
			got, err, written = v, e, v.String()
		case "percent":
			v, e := ParsePercent(c.text)
			got, err, written = v, e, v.String()
		}
		switch {
		case c.want == nil:
			if err == nil {
				t.Errorf("%s %q is taken as %v", c.unit, c.text, got)
			} else if _, ok := err.(*valueError); !ok {
				t.Errorf("%s %q: the error is a %T", c.unit, c.text, err)
			}
		case err != nil || got != c.want:
			t.Errorf("%s %q is %v, %v; want %v", c.unit, c.text, got, err, c.want)
		case written != cmpOr(c.written, c.text):
			t.Errorf("%s %q is written %q", c.unit, c.text, written)
		}
	}
}

// TestUnitsSurviveWriting holds that any value is read back as it was.
func TestUnitsSurviveWriting(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		n := r.Int64N(1e12) >> r.IntN(40)
		if got, err := ParseRate(Rate(n).String()); n > 0 && (err != nil || got != Rate(n)) {
			t.Errorf("rate %d is written %s and read %d, %v", n, Rate(n), got, err)
		}
		if got, err := ParseDuration(Duration(n).String()); err != nil || got != Duration(n) {
			t.Errorf("time %d is written %s and read %d, %v", n, Duration(n), got, err)
		}
		if got, err := ParseSize(Size(n).String()); err != nil || got != Size(n) {
			t.Errorf("size %d is written %s and read %d, %v", n, Size(n), got, err)
		}
		p := Percent(float64(n%100_001) / 1000)
		if got, err := ParsePercent(p.String()); err != nil || got != p {
			t.Errorf("percent %v is written %s and read %v, %v", float64(p), p, float64(got), err)
		}
	}
}

// TestPatternsTakeWhatParseTakes holds that editors, which go by the schema's
// patterns, refuse nothing that vpclab takes.
func TestPatternsTakeWhatParseTakes(t *testing.T) {
	for name, f := range formats {
		pattern := regexp.MustCompile(f.pattern)
		for _, s := range []string{
			"1mbit", "1.5gbit", "5ms", "1m30s", "250µs", "1.5h", "4KiB", "0.1%", "100%", "10.0.0.1", "10.0.0.0/24", "0.0.0.0/0", "acme", "acme-hq",
			"a", "a-b-c", "texas/1", "left:eth1", "l3vpn", "+5ms", ".5ms", "5.ms", "1e3", "-1", "", "A", "a_b", "a--b", "a-", "10.0.0.256",
		} {
			if f.check(s) == nil && !pattern.MatchString(s) {
				t.Errorf("%s: vpclab takes %q, the pattern %s does not", name, s, f.pattern)
			}
		}
	}
}

func TestMapKeepsOrder(t *testing.T) {
	var m Map[[]Value]
	const text = "z: [3, 010, 1.50, true]\na: one\n"
	if err := yaml.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(m.Names(), " "); got != "z a" {
		t.Errorf("order %s", got)
	}
	if v, ok := m.Get("z"); !ok || len(v) != 4 || v[1] != "010" || v[2] != "1.50" || v[3] != "true" {
		t.Errorf("z is %q", v)
	}
	if v, _ := m.Get("a"); len(v) != 1 || v[0] != "one" {
		t.Errorf("a is %q", v)
	}
	if _, ok := m.Get("b"); ok || m.Index("b") != -1 {
		t.Error("b is there")
	}
	out, err := yaml.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var again Map[[]Value]
	if err := yaml.Unmarshal(out, &again); err != nil || strings.Join(again.Names(), " ") != "z a" || again[0].Value[1] != "010" {
		t.Errorf("written as\n%s and read as %v, %v", out, again, err)
	}
}
