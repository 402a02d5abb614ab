package check

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

// The objects whose schemas are not Kubernetes' own have only fields that their readers know.
// MANIFESTS names the file with all that the chart can render.
func TestCustomResourcesHaveKnownFields(t *testing.T) {
	path := os.Getenv("MANIFESTS")
	if path == "" {
		t.Skip("MANIFESTS is not set: deploy/check/run")
	}
	all, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	monitor, rule, route := &monitoring.PodMonitor{}, &monitoring.PrometheusRule{}, &gateway.HTTPRoute{}
	want := map[string]any{
		"monitoring.coreos.com/v1 PodMonitor":     monitor,
		"monitoring.coreos.com/v1 PrometheusRule": rule,
		"gateway.networking.k8s.io/v1 HTTPRoute":  route,
	}
	for _, doc := range bytes.Split(all, []byte("\n---\n")) {
		var of struct{ APIVersion, Kind string }
		if err := yaml.Unmarshal(doc, &of); err != nil {
			t.Fatalf("%v in %s", err, doc)
		}
		name := of.APIVersion + " " + of.Kind
		into, custom := want[name]
		if !custom {
			continue
		}
		delete(want, name)
		if err := yaml.UnmarshalStrict(doc, into); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name := range want {
		t.Errorf("there is no %s", name)
	}
	if len(monitor.Spec.PodMetricsEndpoints) != 1 || len(rule.Spec.Groups) != 2 || len(route.Spec.Rules) != 1 {
		t.Errorf("%+v %+v %+v", monitor.Spec, rule.Spec, route.Spec)
	}
}

// Grafana's own types know every field of the dashboard.
func TestDashboardHasKnownFields(t *testing.T) {
	raw, err := os.ReadFile("../grafana/fantail.json")
	if err != nil {
		t.Fatal(err)
	}
	plugins.RegisterDefaultPlugins()
	var d dashboard.Dashboard
	if wrong := textOf(d.UnmarshalJSONStrict(raw)); wrong != "" {
		t.Fatal(wrong)
	}
	if wrong := textOf(d.Validate()); wrong != "" {
		t.Fatal(wrong)
	}
	if len(d.Panels) < 20 {
		t.Errorf("%d panels", len(d.Panels))
	}
	// A field that does not exist is noticed.
	wrong := bytes.Replace(raw, []byte(`"graphTooltip"`), []byte(`"graphTooltips"`), 1)
	if textOf(new(dashboard.Dashboard).UnmarshalJSONStrict(wrong)) == "" || !json.Valid(wrong) {
		t.Error("an unknown field is accepted")
	}
}

// textOf returns an error's text. The library returns empty lists of errors, which are not nil.
func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
