{{- define "fantail.name" -}}
{{ .Values.fullnameOverride | default .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* The labels that never change: a selector. */}}
{{- define "fantail.selector" -}}
app.kubernetes.io/name: fantail
app.kubernetes.io/instance: {{ include "fantail.name" . }}
{{- end }}

{{- define "fantail.labels" -}}
{{ include "fantail.selector" . }}
app.kubernetes.io/component: node
app.kubernetes.io/part-of: fantail
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "fantail.meta" -}}
name: {{ include "fantail.name" . }}
labels:
  {{- include "fantail.labels" . | nindent 2 }}
{{- end }}

{{- define "fantail.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "fantail.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (ternary (include "fantail.name" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{/* A pod is left alone for longer than its grace. */}}
{{- define "fantail.patience" -}}
{{ add 15 (trimSuffix "s" .Values.settings.grace | int) }}
{{- end }}

{{/* The objects for which the chart has no settings of its own. */}}
{{- define "fantail.volumes" -}}
- name: secret
  secret: { secretName: {{ .Values.existingSecret }}, defaultMode: 0440, items: [{ key: secret, path: secret }] }
{{- with .Values.tls.existingSecret }}
- name: tls
  secret: { secretName: {{ . }}, defaultMode: 0440 }
{{- end }}
{{- with .Values.relayTLS.existingSecret }}
- name: relay-tls
  secret: { secretName: {{ . }}, defaultMode: 0440 }
{{- end }}
{{- with .Values.adminToken.existingSecret }}
- name: admin-token
  secret: { secretName: {{ . }}, defaultMode: 0440, items: [{ key: token, path: token }] }
{{- end }}
{{- with .Values.auth.existingSecret }}
- name: auth
  secret: { secretName: {{ . }}, defaultMode: 0440 }
{{- end }}
{{- end }}
