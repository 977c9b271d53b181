package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

const stream = `{"Action":"run","Package":"a","Test":"TestGood"}
{"Action":"output","Package":"a","Test":"TestGood","Output":"secret of the good\n"}
{"Action":"pass","Package":"a","Test":"TestGood"}
{"Action":"output","Package":"a","Test":"TestBad/sub","Output":"    a_test.go:7: it broke\n"}
{"Action":"fail","Package":"a","Test":"TestBad/sub"}
{"Action":"fail","Package":"a","Test":"TestBad"}
{"Action":"output","Package":"a","Test":"TestLazy","Output":"=== RUN   TestLazy\n"}
{"Action":"output","Package":"a","Test":"TestLazy","Output":"    a_test.go:9: needs a moon\n"}
{"Action":"skip","Package":"a","Test":"TestLazy"}
{"Action":"fail","Package":"a"}
{"ImportPath":"b","Action":"build-output","Output":"b.go:1:1: syntax error\n"}
{"ImportPath":"b","Action":"build-fail"}
{"Action":"fail","Package":"b"}
go: some warning
`

func TestSummary(t *testing.T) {
	s := read(strings.NewReader(stream))
	if s.passed != 1 || s.failed != 2 || s.skipped != 1 {
		t.Errorf("%d passed, %d failed, %d skipped; want 1, 2 (a test and a package that does not build), 1", s.passed, s.failed, s.skipped)
	}
	var out bytes.Buffer
	s.print(&out, "all", time.Second)
	for _, want := range []string{"FAIL  all", "it broke", "syntax error", "1 skipped: needs a moon", "some warning"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "secret") {
		t.Errorf("output of a good test is shown:\n%s", &out)
	}
}
