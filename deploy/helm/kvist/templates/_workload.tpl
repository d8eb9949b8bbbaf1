{{/* What a StatefulSet and a DaemonSet have in common. A node that joins has its whole share after ramp and window: the
     next one of a rolling update waits for that. */}}
{{- define "kvist.workload" -}}
{{- $joined := add (include "kvist.seconds" .Values.join.ramp) (include "kvist.seconds" .Values.join.window) -}}
minReadySeconds: {{ kindIs "invalid" .Values.minReadySeconds | ternary $joined .Values.minReadySeconds | int }}
updateStrategy:
  {{- toYaml .Values.updateStrategy | nindent 2 }}
selector:
  matchLabels:
    {{- include "kvist.selector" (list . "node") | nindent 4 }}
template:
  {{- include "kvist.pod" . | nindent 2 }}
{{- end -}}
