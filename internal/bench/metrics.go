package bench

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The daemon's counters that the bench reads.
const (
	metricSettled    = "pgqrsd_settled_total"
	metricInFlight   = "pgqrsd_in_flight"
	metricSteps      = "pgqrsd_steps_total"
	metricStatements = "pgqrsd_store_statements_total"
	metricLost       = "pgqrsd_leases_lost_total"
	metricRestarts   = "pgqrsd_handler_restarts_total"
)

// labelDone is the label of outcomes that are done, archived or not.
const labelDone = `outcome="done"`

// metrics reads the daemon's metrics.
type metrics struct {
	client http.Client
	url    string
}

func newMetrics(addr string) *metrics {
	return &metrics{
		client: http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}, // through no proxy
		url:    "http://" + addr + "/metrics",
	}
}

// sample is the metrics at one moment: each with its labels, as in the text.
type sample map[string]float64

// sample asks the daemon.
func (m *metrics) sample(ctx context.Context) (sample, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url, nil)
	if err != nil {
		return nil, fmt.Errorf("ask the daemon for its metrics: %w", err)
	}
	resp, err := m.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the daemon for its metrics: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask the daemon for its metrics: it answers %s", resp.Status)
	}
	s := sample{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "#") || !hasAnyPrefix(line, metricSettled, metricInFlight, metricSteps, metricStatements, metricLost, metricRestarts) {
			continue
		}
		space := strings.LastIndexByte(line, ' ')
		if space < 0 {
			continue
		}
		if s[line[:space]], err = strconv.ParseFloat(line[space+1:], 64); err != nil {
			return nil, fmt.Errorf("read the daemon's metrics: %w", err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the daemon's metrics: %w", err)
	}
	return s, nil
}

// sum adds up a metric over all labels that contain one; found says that there
// is any.
func (s sample) sum(name, label string) (total float64, found bool) {
	for key, value := range s {
		metric, labels, _ := strings.Cut(key, "{")
		if metric == name && strings.Contains(labels, label) {
			total += value
			found = true
		}
	}
	return total, found
}

// done counts the messages that are done.
func (s sample) done() int64 {
	n, _ := s.sum(metricSettled, labelDone)
	return int64(n)
}
