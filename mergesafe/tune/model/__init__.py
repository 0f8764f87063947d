"""The merged model as a function of its coefficients."""
