package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const defaultTimeout = 30 * time.Second

// configure reads the settings and makes the client that obeys them.
func (w *webhook) configure(getenv func(string) string) error {
	secret, err := parseSecret(getenv("WEBHOOK_SECRET"))
	if err != nil {
		return fmt.Errorf("WEBHOOK_SECRET: %w", err)
	}
	hosts, err := parseHosts(getenv("WEBHOOK_ALLOWED_HOSTS"))
	if err != nil {
		return fmt.Errorf("WEBHOOK_ALLOWED_HOSTS: %w", err)
	}
	timeout := defaultTimeout
	if value := getenv("WEBHOOK_TIMEOUT"); value != "" {
		timeout, err = time.ParseDuration(value)
		if err != nil || timeout <= 0 {
			return fmt.Errorf("WEBHOOK_TIMEOUT is %q, which is no duration above 0 such as 30s", value)
		}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 100
	w.secret, w.hosts = secret, hosts
	w.client = &http.Client{Transport: transport, Timeout: timeout, CheckRedirect: w.checkRedirect}
	return nil
}

// parseSecret takes a secret as it stands, or decodes one in the form of the
// Standard Webhooks.
func parseSecret(value string) ([]byte, error) {
	if value == "" {
		return nil, errors.New("not set; receivers check the signature with it")
	}
	encoded, ok := strings.CutPrefix(value, "whsec_")
	if !ok {
		return []byte(value), nil
	}
	secret, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(secret) == 0 {
		return nil, errors.New("what follows whsec_ is not base64")
	}
	return secret, nil
}

// host is one allowed host.
type host struct {
	scheme string // of a URL
	name   string // lower case; ".example.com" for any subdomain
	port   string
}

func parseHosts(list string) ([]host, error) {
	var hosts []host
	for entry := range strings.SplitSeq(list, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		text := entry
		if !strings.Contains(text, "://") {
			text = "https://" + text
		}
		u, err := url.Parse(text)
		if err != nil || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
			return nil, fmt.Errorf("%q is no host, such as hooks.example.com, *.example.com or http://localhost:8080", entry)
		}
		h := hostOf(u)
		if h.scheme != "http" && h.scheme != "https" {
			return nil, fmt.Errorf("%q: only http and https are possible", entry)
		}
		if rest, ok := strings.CutPrefix(h.name, "*."); ok {
			h.name = "." + rest
		}
		if strings.Contains(h.name, "*") {
			return nil, fmt.Errorf(`%q: a "*" stands only in front, as in *.example.com`, entry)
		}
		hosts = append(hosts, h)
	}
	if len(hosts) == 0 {
		return nil, errors.New("not set; name the hosts that may be called, with commas between them")
	}
	return hosts, nil
}

func hostOf(u *url.URL) host {
	h := host{scheme: strings.ToLower(u.Scheme), name: strings.ToLower(u.Hostname()), port: u.Port()}
	if h.port == "" {
		h.port = map[string]string{"http": "80", "https": "443"}[h.scheme]
	}
	return h
}

// allowed returns an error that says which host is not allowed.
func (w *webhook) allowed(u *url.URL) error {
	asked := hostOf(u)
	for _, h := range w.hosts {
		if h.scheme != asked.scheme || h.port != asked.port {
			continue
		}
		if h.name == asked.name || (strings.HasPrefix(h.name, ".") && strings.HasSuffix(asked.name, h.name)) {
			return nil
		}
	}
	return fmt.Errorf("%s://%s is not among WEBHOOK_ALLOWED_HOSTS", asked.scheme, u.Host)
}
